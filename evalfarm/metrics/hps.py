"""HPS: would people prefer this picture for its prompt?

Human Preference Score (Wu et al. 2023): 100 * cos(picture, prompt) of a ViT-H-14 trained on choices
of people. At most 100, in practice 20 to 35 points; higher is better. The summary is the mean, as
`hpsv2.evaluate` reports it; tables of bare cosines show a hundredth.

v2 and v2.1 are two sets of weights, whose numbers never compare; `hpsv2` itself takes the one or
the other by entry point. The longer side of a picture becomes 224 pixels, bicubic and antialiased
as torchvision has it since 0.17 (`hpsv2` leaves it to torchvision), and black fills the square.
"""

from evalfarm.metrics.base import Batch, Column, ConfiguredMetric, Seen, register
from evalfarm.networks import network_path
from evalfarm.rows import Rows
from trainer.models.config import NetworksConfig
from trainer.models.hps import Hps as HpsNetwork

NETWORKS = {"v2": "hps_v2", "v2.1": "hps_v2_1"}


@register("hps")
class Hps(ConfiguredMetric):
    """Mean of 100 * cosine."""

    modes = tuple(NETWORKS)
    also_needs = ("clip_l14",)  # for its tokenizer, which is every CLIP's

    def __init__(self, mode: str, networks: NetworksConfig) -> None:
        super().__init__(mode, networks)
        self.network = NETWORKS[mode]
        self.weights = (self.network,)
        self.columns = (
            Column(
                name="hps",
                title=f"HPS{mode}",
                unit="points",
                higher_is_better=True,
                decimals=2,
                mean_of="hps",
            ),
        )

    def look(self, batch: Batch) -> list[Seen]:
        """One cosine each."""
        networks = batch.networks
        tokenizer = network_path(networks.config, "clip_l14")
        network = networks.load(
            self.network, lambda path: HpsNetwork(path, tokenizer, networks.device)
        )
        cosines = network.score(network.pixels(batch.images), batch.prompts).tolist()
        return [Seen(numbers={"hps": 100 * cosine}) for cosine in cosines]

    def summarize(self, rows: Rows, references: Rows) -> dict[str, float]:
        """The mean over pictures."""
        return self.means(rows)
