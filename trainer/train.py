"""One training run: read `train` top to bottom, the rest is detail."""

from collections.abc import Callable, Iterator

import torch

from cluster.exit_codes import ExitCode
from cluster.run_folder import RunFolder
from trainer import distributed
from trainer.config import TrainConfig, split_batch
from trainer.data.loader import Batch, open_batches
from trainer.data.order import rank_positions
from trainer.data.shards import ShardFolder
from trainer.distributed import World
from trainer.engine import learning_rate, set_learning_rate, start_engine, take_step
from trainer.journal import Journal
from trainer.models.pipeline import load_family
from trainer.models.trained import Trained
from trainer.objectives.denoising import Denoising
from trainer.objectives.randomness import seed_of
from trainer.preview import make_previews
from trainer.publish import Publisher


def train(config: TrainConfig, run: RunFolder, attempt: int) -> ExitCode:
    """Fine-tune `config.model`, going on from the newest whole checkpoint in `run`."""
    world = distributed.start(config.device)
    _, accumulation = split_batch(config, world.ranks)
    with Journal(
        run, attempt, world, steps=config.steps, images_per_step=config.global_batch
    ) as journal:
        family = load_family(config.model, device=world.device, dtype_of=_dtype_of(config))
        torch.manual_seed(seed_of(config.seed, "init"))  # the same adapters on every rank
        objective = Denoising(family, config)
        engine = start_engine(Trained(family, config), config, world.ranks)
        publisher = Publisher(
            run=run,
            attempt=attempt,
            config=config,
            prediction=objective.prediction,
            world=world,
            family=family,
            engine=engine,
        )
        publisher.sweep()
        done = _resume(publisher, journal)
        batches = _open_batches(config, world, done)
        journal.open_board(done)
        if not publisher.has_export(done):  # the base, or what a kill came before
            _export(publisher, journal, done)

        journal.start_clock()
        while done < config.steps:
            torch.manual_seed(seed_of(config.seed, done, world.rank))  # for LoRA's dropout
            lr = learning_rate(done, config.optim, config.steps)
            set_learning_rate(engine, lr)
            loss = torch.zeros((), device=world.device)
            for _ in range(accumulation):
                batch = next(batches)
                micro_loss = objective(engine, batch)
                engine.backward(micro_loss)
                grad_norm = take_step(engine)
                loss += micro_loss.detach() / accumulation
                journal.count_broken(batch.broken)
            done += 1
            assert grad_norm is not None, "the last forward pass of a batch makes a step"
            journal.keep(done, loss, grad_norm=grad_norm, lr=lr)
            journal.beat("train", step=done)

            stop = world.any(world.is_main and run.stop_request.exists())
            save = stop or done % config.save_every == 0 or done == config.steps
            if save or done % config.log_every == 0:
                journal.write_steps()
            if save:
                _save(publisher, journal, done)
            if stop and done < config.steps:
                journal.note(f"stopped as asked after step {done}")
                return ExitCode.STOPPED
        return ExitCode.DONE


def _dtype_of(config: TrainConfig) -> Callable[[str], torch.dtype]:
    """The dtype to load each network in: what is trained has fp32 masters."""
    frozen = torch.bfloat16 if config.precision == "bf16" else torch.float32
    return lambda name: frozen if config.how(name) == "frozen" else torch.float32


def _resume(publisher: Publisher, journal: Journal) -> int:
    """Load the newest whole checkpoint and say so; the step it stands at."""
    done, passed_over = publisher.load_newest_checkpoint()
    for reason in passed_over:
        journal.note(f"passed over a checkpoint: {reason}")
    world, steps = publisher.world, publisher.config.steps
    journal.event("start", step=done, steps=steps, ranks=world.ranks, passed_over=passed_over)
    journal.note(f"{world.ranks} ranks go on after step {done} of {steps}")
    return done


def _open_batches(config: TrainConfig, world: World, first_step: int) -> Iterator[Batch]:
    positions = rank_positions(
        first_step,
        config.steps,
        global_batch=config.global_batch,
        micro_batch=split_batch(config, world.ranks).micro_batch,
        rank=world.rank,
        ranks=world.ranks,
    )
    shards = ShardFolder(config.data.path)
    return open_batches(
        shards, config.data, positions, seed=config.seed, global_batch=config.global_batch
    )


def _save(publisher: Publisher, journal: Journal, step: int) -> None:
    """Publish the checkpoint first: an export can be made again from it, never the reverse."""
    journal.beat("save", step=step)
    folder = publisher.save_checkpoint(step)
    journal.event("checkpoint", step=step, path=str(folder))
    journal.note(f"published {folder.name} to resume from")
    _export(publisher, journal, step)
    journal.start_clock()


def _export(publisher: Publisher, journal: Journal, step: int) -> None:
    journal.beat("export", step=step)
    previews = make_previews(publisher)
    folder = publisher.export(step, previews)
    journal.pictures(step, previews)
    journal.event("export", step=step, path=str(folder))
    journal.note(f"published {folder.name} for inference")
