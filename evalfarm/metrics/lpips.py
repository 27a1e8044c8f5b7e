"""LPIPS: how different does the picture look from the real one of its prompt?

    d = Σ over layers of mean over places of Σ over channels of w (f(x) - f(y))²

Zhang et al. 2018, version 0.1: unit features f of an AlexNet (`alex`) or a VGG16 (`vgg`) that knows
ImageNet, weights w fitted to people's answers. No unit; 0 for equal pictures, seldom over 1; lower
is better. The summary is the mean. Pictures are compared at their own size; the real one is made
that size (evalfarm/metrics/pairs.py).
"""

from functools import cached_property

from evalfarm.metrics.base import Batch, Column, Metric, Seen, register
from evalfarm.metrics.pairs import pixel_pairs
from evalfarm.networks import missing_network, network_path
from evalfarm.rows import Rows
from trainer.models.digest import SHORT, files_digest
from trainer.models.lpips import Lpips as LpipsNetwork
from trainer.models.lpips import heads_file

NETWORKS = {"alex": "alexnet", "vgg": "vgg16"}


@register("lpips")
class Lpips(Metric):
    """Mean distance of each picture and its real one."""

    modes = tuple(NETWORKS)
    columns = (
        Column(
            name="lpips",
            title="LPIPS",
            unit="distance",
            higher_is_better=False,
            decimals=4,
            mean_of="lpips",
        ),
    )
    references = "pairs"

    def absent(self) -> str | None:
        """Absent without the mode's trunk; the fitted weights come with torchmetrics."""
        return missing_network(self.networks, NETWORKS[self.mode])

    @cached_property  # half a gigabyte is digested for it
    def variant(self) -> str:
        """Mode and digest of trunk and fitted weights."""
        trunk = network_path(self.networks, NETWORKS[self.mode])
        return f"{self.mode}@{files_digest([trunk, heads_file(self.mode)])[:SHORT]}"

    def look(self, batch: Batch) -> list[Seen]:
        """One distance each."""
        networks = batch.networks
        network = networks.load(
            NETWORKS[self.mode],
            lambda path: LpipsNetwork(self.mode, path).to(networks.device),
        )
        pictures, targets = (pixels.to(networks.device) for pixels in pixel_pairs(batch))
        return [Seen(numbers={"lpips": far}) for far in network(pictures, targets).tolist()]

    def summarize(self, rows: Rows, references: Rows) -> dict[str, float]:
        """The mean over pictures."""
        return self.means(rows)
