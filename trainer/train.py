"""One training run: read `train` top to bottom, the rest is detail."""

from collections.abc import Callable, Iterator

import torch

from cluster.exit_codes import ExitCode
from cluster.run_folder import RunFolder
from trainer import distributed
from trainer.checkpoint import Checkpoint
from trainer.config import TrainConfig, split_batch
from trainer.data.cache.reading import Cache, open_cache
from trainer.data.loader import Batch, open_batches
from trainer.data.order import rank_positions
from trainer.data.shards import ShardFolder
from trainer.distributed import World
from trainer.engine import learning_rate, set_learning_rate, take_step
from trainer.journal import Journal
from trainer.learner import Learner, start_learner
from trainer.models.pipeline import load_family
from trainer.objectives.denoising import Denoising
from trainer.objectives.randomness import seed_of
from trainer.preview import make_previews
from trainer.publish import Publisher


def train(config: TrainConfig, run: RunFolder, attempt: int) -> ExitCode:
    """Fine-tune `config.model`, going on from the newest whole checkpoint in `run`."""
    world = distributed.start(config.device)
    with Journal(
        run, attempt, world, steps=config.steps, images_per_step=config.global_batch
    ) as journal:
        family = load_family(config.model, device=world.device, dtype_of=_dtype_of(config))
        cache = open_cache(config, family)
        objective = Denoising(family, config)
        publisher = Publisher(run, attempt, config, world, journal, objective)
        checkpoint = _find_checkpoint(publisher, journal)
        torch.manual_seed(seed_of(config.seed, "init"))  # the same adapters on every rank
        learner = start_learner(family, config, world, checkpoint)
        batches = _open_batches(config, world, learner.step, cache)
        journal.open_board(learner.step)
        if not publisher.has_export(learner.step):  # the base, or what a kill came before
            previews = make_previews(config.preview, learner, objective, world)
            publisher.export_again(checkpoint, previews)

        journal.start_clock()
        while learner.step < config.steps:
            _step(learner, objective, batches, journal, config, world)
            journal.beat("train", step=learner.step)
            publisher.advance()

            stop = world.any(world.is_main and run.stop_request.exists())
            save = stop or learner.step % config.save_every == 0 or learner.step == config.steps
            if save or learner.step % config.log_every == 0:
                journal.write_steps()
            if save:
                journal.beat("save", step=learner.step)
                publisher.save(learner, make_previews(config.preview, learner, objective, world))
                journal.start_clock()
            if stop and learner.step < config.steps:
                publisher.close()
                journal.note(f"stopped as asked after step {learner.step}")
                return ExitCode.STOPPED
        publisher.close()
        return ExitCode.DONE


def _dtype_of(config: TrainConfig) -> Callable[[str], torch.dtype]:
    """The dtype to load each network in: what is trained has fp32 masters."""
    frozen = torch.bfloat16 if config.precision == "bf16" else torch.float32
    return lambda name: frozen if config.how(name) == "frozen" else torch.float32


def _step(
    learner: Learner,
    objective: Denoising,
    batches: Iterator[Batch],
    journal: Journal,
    config: TrainConfig,
    world: World,
) -> None:
    """One optimizer step: every rank's share of a global batch, in as many passes as it takes."""
    _, accumulation = split_batch(config, world.ranks)
    torch.manual_seed(seed_of(config.seed, learner.step, world.rank))  # for LoRA's dropout
    lr = learning_rate(learner.step, config.optim, config.steps)
    set_learning_rate(learner.engine, lr)
    loss = torch.zeros((), device=world.device)
    for _ in range(accumulation):
        batch = next(batches)
        micro_loss = objective(learner.engine, batch)
        learner.engine.backward(micro_loss)
        grad_norm = take_step(learner.engine)
        loss += micro_loss.detach() / accumulation
        journal.count_broken(batch.broken)
    assert grad_norm is not None, "the last forward pass of a batch makes a step"
    learner.step += 1
    if learner.ema:
        learner.ema.update(learner.step)
    journal.keep(learner.step, loss, grad_norm=grad_norm, lr=lr)


def _find_checkpoint(publisher: Publisher, journal: Journal) -> Checkpoint | None:
    """The newest whole checkpoint, and a word on where the run goes on."""
    publisher.sweep()
    checkpoint, passed_over = publisher.newest_checkpoint()
    for reason in passed_over:
        journal.note(f"passed over a checkpoint: {reason}")
    done = checkpoint.step if checkpoint else 0
    ranks, steps = publisher.world.ranks, publisher.config.steps
    journal.event("start", step=done, steps=steps, ranks=ranks, passed_over=passed_over)
    before = checkpoint.manifest["ranks"] if checkpoint else ranks
    journal.note(
        f"{ranks} ranks go on after step {done} of {steps}"
        + (f", which {before} ranks saved" if before != ranks else "")
    )
    return checkpoint


def _open_batches(
    config: TrainConfig, world: World, first_step: int, cache: Cache | None
) -> Iterator[Batch]:
    positions = rank_positions(
        first_step,
        config.steps,
        global_batch=config.global_batch,
        micro_batch=split_batch(config, world.ranks).micro_batch,
        rank=world.rank,
        ranks=world.ranks,
    )
    return open_batches(
        ShardFolder(config.data.path),
        config.data,
        positions,
        seed=config.seed,
        global_batch=config.global_batch,
        masks=config.objective.mask_weight != 1,
        cache=cache,
    )
