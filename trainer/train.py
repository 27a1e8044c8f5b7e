"""One training run: read `train` top to bottom, the rest is detail."""

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from cluster.exit_codes import ExitCode
from cluster.run_folder import RunFolder, published_steps
from trainer import distributed
from trainer.checkpoint import Checkpoint
from trainer.config import TrainConfig, split_batch
from trainer.data.cache.reading import open_cache
from trainer.data.loader import Batch
from trainer.data.order import rank_positions
from trainer.data.samples import Samples, open_samples
from trainer.distributed import World
from trainer.early_stop import read_series, stalled
from trainer.engine import learning_rate, set_learning_rate, take_step
from trainer.journal import BrokenLoss, Journal
from trainer.learner import Learner, start_learner
from trainer.models.dtypes import DTYPES
from trainer.models.family import Family
from trainer.models.pipeline import load_family
from trainer.objectives.denoising import Denoising
from trainer.objectives.objective import Objective
from trainer.objectives.randomness import seed_of
from trainer.objectives.reward_tuning import RewardTuning
from trainer.objectives.term import Loss
from trainer.preview import make_previews
from trainer.publish import Publisher
from trainer.validation import Validation, open_validation

NAMES_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Job:
    """What stays the same from the first step to the last."""

    config: TrainConfig
    run: RunFolder
    world: World
    journal: Journal
    objective: Objective
    publisher: Publisher
    samples: Samples
    validation: Validation | None


def train(config: TrainConfig, run: RunFolder, attempt: int) -> ExitCode:
    """Fine-tune `config.model`, going on from the newest whole checkpoint in `run`."""
    world = distributed.start(config.device)
    with Journal(
        run, attempt, world, steps=config.steps, images_per_step=config.global_batch
    ) as journal:
        family = load_family(
            config.model,
            device=world.device,
            dtype_of=_dtype_of(config),
            model_config=config.model_config,
        )
        cache = open_cache(config, family)  # by the weights as they are, before any is trained
        objective = open_objective(family, config)
        publisher = Publisher(run, attempt, config, world, journal, objective)
        checkpoint = _find_checkpoint(publisher, journal)
        torch.manual_seed(seed_of(config.seed, "init"))  # the same adapters on every rank
        learner = start_learner(family, config, world, checkpoint)
        samples = open_samples(config, cache)
        job = Job(
            config=config,
            run=run,
            world=world,
            journal=journal,
            objective=objective,
            publisher=publisher,
            samples=samples,
            validation=open_validation(samples, config, objective, world),
        )
        if samples.warning:
            journal.warn(samples.warning)
        journal.open_board(learner.step)
        if not publisher.has_export(learner.step):  # the base, or what a kill came before
            previews = make_previews(config.preview, learner, objective, world)
            publisher.export_again(checkpoint, previews)
        try:
            code = _train(job, learner)
        except BrokenLoss as error:
            publisher.close()  # every rank is here: what was saved before is still published
            raise FloatingPointError(_explained(error, job)) from None
        publisher.close()
        journal.beat("ended", step=learner.step)
        return code


def open_objective(family: Family, config: TrainConfig) -> Objective:
    """What the recipe learns by; ValueError if something for it is missing."""
    return RewardTuning(family, config) if config.reward else Denoising(family, config)


def _train(job: Job, learner: Learner) -> ExitCode:
    """The loop."""
    config, journal, world = job.config, job.journal, job.world
    batches = _open_batches(job, learner.step)
    _validate_if_due(job, learner)
    ended = _stalled(job, learner)
    journal.start_clock()
    while learner.step < config.steps and not ended:
        _step(job, learner, batches)
        journal.beat("train", step=learner.step)
        job.publisher.advance()

        stop = world.any(world.is_main and job.run.stop_request.exists())
        last = learner.step == config.steps
        save = stop or last or learner.step % config.save_every == 0
        if save or learner.step % config.log_every == 0:
            journal.write_steps()
        if save:
            learner.history.setdefault("train_loss", {})[learner.step] = journal.mean_loss()
        if _validate_if_due(job, learner) or save:
            ended = _stalled(job, learner)
        if save or ended:
            _save(job, learner, final=last or ended)
        if stop and not (last or ended):
            journal.note(f"stopped as asked after step {learner.step}")
            return ExitCode.STOPPED
    return ExitCode.DONE


def _step(job: Job, learner: Learner, batches: Iterator[Batch]) -> None:
    """One optimizer step: this rank's share of a global batch, in as many passes as it takes."""
    config, world, journal = job.config, job.world, job.journal
    _, accumulation = split_batch(config, world.ranks)
    torch.manual_seed(seed_of(config.seed, learner.step, world.rank))  # for LoRA's dropout
    lr = learning_rate(learner.step, config.optim, config.steps)
    set_learning_rate(learner.engine, lr)
    loss = torch.zeros((), device=world.device)
    scalars: dict[str, Tensor] = defaultdict(lambda: torch.zeros((), device=world.device))
    for _ in range(accumulation):
        with journal.own_time:
            batch = next(batches)
            passed = _loss(job, learner, batch)
        learner.engine.backward(passed.total)
        grad_norm = take_step(learner.engine)
        loss += passed.total.detach() / accumulation
        for name, value in passed.scalars.items():
            scalars[name] += value / accumulation
        journal.count(passed.counts)
        journal.count_broken(batch.broken)
        journal.count_long(*job.objective.long_captions(batch))
    assert grad_norm is not None, "the last forward pass of a batch makes a step"
    learner.step += 1
    if learner.ema:
        learner.ema.update(learner.step)
    journal.keep(learner.step, {"loss": loss, **scalars}, grad_norm=grad_norm, lr=lr)


def _loss(job: Job, learner: Learner, batch: Batch) -> Loss:
    """The loss of a forward pass; if the recipe says so, nothing in place of one that is broken."""
    loss = job.objective(learner.engine, batch, learner.step)
    if job.config.on_broken_loss == "stop":
        return loss
    numbers = torch.stack([loss.total.detach(), *loss.scalars.values()])  # one look at the device
    broken = not bool(torch.isfinite(numbers).all())
    if not job.world.any(broken):
        return loss
    if broken:
        job.journal.count_skipped(job.samples.names(batch.positions))
        return job.objective.nothing(learner.engine, batch, learner.step)
    # At stage 3 every rank must pass as often.
    return job.objective(learner.engine, batch, learner.step)


def _validate_if_due(job: Job, learner: Learner) -> bool:
    """Measure the validation loss, if it is time and it has not been measured here before."""
    if job.validation is None or job.config.validation is None:
        return False
    due = learner.step % job.config.validation.every == 0 or learner.step == job.config.steps
    history = learner.history.setdefault("validation_loss", {})
    if not due or learner.step in history:
        return False
    job.journal.write_steps()
    job.journal.beat("validate", step=learner.step)
    mean, bands = job.validation.measure(learner.engine)
    history[learner.step] = mean
    job.journal.validated(learner.step, mean, bands)
    job.journal.start_clock()
    return True


def _stalled(job: Job, learner: Learner) -> bool:
    """Whether the recipe's metric has not got better for too long; the same on every rank."""
    config = job.config.early_stop
    if config is None:
        return False
    ended = False
    if job.world.is_main:
        series = read_series(job.run, config.metric, learner.history)
        ended = stalled(series, config)
        if ended:
            best = series.best(1)[0]
            job.journal.event("early_stop", step=learner.step, metric=config.metric, best_step=best)
            job.journal.note(
                f"ends early: {config.metric} was best after step {best}, with "
                f"{series.values[best]:.5g}, and {config.patience} values since were no better"
            )
    return job.world.any(ended)


def _save(job: Job, learner: Learner, *, final: bool) -> None:
    job.journal.beat("save", step=learner.step)
    previews = make_previews(job.config.preview, learner, job.objective, job.world)
    job.publisher.save(learner, previews, final=final)
    job.journal.start_clock()


def _dtype_of(config: TrainConfig) -> Callable[[str], torch.dtype]:
    """The dtype to load each network in: what is trained has fp32 masters."""
    frozen = DTYPES[config.precision]
    return lambda name: frozen if config.how(name) == "frozen" else torch.float32


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


def _open_batches(job: Job, first_step: int) -> Iterator[Batch]:
    config, world = job.config, job.world
    positions = rank_positions(
        first_step,
        config.steps,
        global_batch=config.global_batch,
        micro_batch=split_batch(config, world.ranks).micro_batch,
        rank=world.rank,
        ranks=world.ranks,
    )
    return job.samples.batches(positions)


def _explained(error: BrokenLoss, job: Job) -> str:
    """What was broken, by which samples it may have been, and what there is to go on from."""
    first = (error.step - 1) * job.config.global_batch
    names = job.samples.names(range(first, first + job.config.global_batch))
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    saved = published_steps(job.run.checkpoints)
    last = f"the last good checkpoint is {saved[-1][1].name}" if saved else "nothing was saved yet"
    return (
        f"{error}; its samples: {', '.join(names[:NAMES_SHOWN])}{more}; {last}: lower "
        "train.optim.lr, leave those samples out, or set train.on_broken_loss to skip"
    )
