"""Loop: a training under way."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from labrecon.fitting.averages import Averages, copied, overwrite
from labrecon.fitting.config import FitConfig, FitError
from labrecon.fitting.feed import Feed, Portion, mixed_seed
from labrecon.fitting.interfaces import Checkpoints, Log, StepCallback
from labrecon.fitting.optimisation import make_optimiser, trained
from labrecon.fitting.processes import Processes
from labrecon.fitting.result import Best, FitResult

if TYPE_CHECKING:
    from labrecon.learner import Learner

__all__ = ["Loop"]


class Loop:
    """What changes while a learner is trained, and how.

    Args:
        learner: what is trained.
        feed: batches.
        config: how.
        processes: those that train together.
        validation: batches never trained on.
        callbacks: told of each step.
        checkpoints: where to save.
        identity: what else a continuation must agree in.
    """

    def __init__(
        self,
        learner: Learner,
        feed: Feed,
        config: FitConfig,
        processes: Processes,
        *,
        validation: Feed | None,
        callbacks: Iterable[StepCallback],
        checkpoints: Checkpoints | None,
        identity: Mapping[str, Any] | None,
    ) -> None:
        self.learner = learner
        self.feed = feed
        self.config = config
        self.processes = processes
        self.heldout = validation
        self.callbacks = list(callbacks) if processes.first else []
        self.logs = [log for log in self.callbacks if isinstance(log, Log)]
        self.checkpoints = checkpoints
        self.identity = _plain({"config": config.to_dict(), "identity": dict(identity or {})})
        self.optimiser = make_optimiser(learner.parameters(), config)
        self.parameters = trained(self.optimiser)
        self.rates = [group["lr"] for group in self.optimiser.param_groups]
        self.tensors = dict(learner.tensors())
        self.total = self._total()
        self._check_schedule()
        self.averages = Averages(self.tensors, config.ema) if config.ema is not None else None
        self.step = 0
        self.best: Best | None = None
        self.best_tensors: dict[str, Tensor] | None = None
        self.stale = 0
        self.status = ""
        self.history: list[dict[str, float]] = []
        self.last: dict[str, float] = {}
        self.before = 0.0
        self.began = time.perf_counter()
        self.start: dict[str, Any] | None = None

    def run(self) -> FitResult:
        """Train until an end is reached; the learner is left with what `FitConfig.keep` says."""
        with self._training_mode():
            self._continue()
            with self._logs_open():
                if not self.status:
                    self._train()
            if self.config.keep == "best" and self.best_tensors is not None:
                overwrite(self.tensors, self.best_tensors)
            elif self.averages is not None:
                overwrite(self.tensors, self.averages.values)
        return FitResult(self.history, self.status, self.step, self.best, self.last)

    # -- the steps -----------------------------------------------------------------------------

    def _train(self) -> None:
        for portion in self.feed.training(self.step):
            with self._random_numbers():
                record = self._step(portion)
                self.step += 1
                if self._validation_due():
                    record.update(self._validate())
                record["seconds"] = self._seconds()
                self.history.append(record)
                self.last = record
                asked = [watch(self.step, record) for watch in self.callbacks]
            self.status = self.processes.agree(self._ending(any(asked), record["seconds"]))
            if self.status:
                break
            if (
                self.checkpoints is not None
                and self.processes.first
                and self.checkpoints.due(self.step)
            ):
                self._save()
        self.status = self.status or "finished"
        self._save()

    def _step(self, portion: Portion) -> dict[str, float]:
        factor = self.config.law(self.step, self.total)
        for group, rate in zip(self.optimiser.param_groups, self.rates, strict=True):
            group["lr"] = rate * factor
        take = self._search if self.config.optimiser == "lbfgs" else self._descend
        try:
            told = take(portion)
        except (MemoryError, RuntimeError) as error:
            if not _of_memory(error):
                raise
            raise self._short_of_memory(error, portion) from error
        self.learner.after_step()
        self.processes.same(t for t in self.tensors.values() if not t.requires_grad)
        if self.averages is not None:
            self.averages.update(self.step)
        rate = self.optimiser.param_groups[0]["lr"]
        return {"epoch": float(portion.epoch), **told, "learning_rate": float(rate)}

    def _descend(self, portion: Portion) -> dict[str, float]:
        told = self._evaluate(portion)
        scaler = self.processes.scaler
        if scaler is not None:
            scaler.unscale_(self.optimiser)
        total = self._gradient_norm()
        told["gradient_norm"] = norm = float(total)
        if not math.isfinite(norm) and (scaler is None or scaler.get_scale() < 1):
            raise self._not_finite("the gradient", norm, portion)
        if self.config.clip is not None and math.isfinite(norm):
            torch.nn.utils.clip_grads_with_norm_(self.parameters, self.config.clip, total)
        if scaler is None:
            self.optimiser.step()
        else:
            scaler.step(self.optimiser)
            scaler.update()
        return told

    def _search(self, portion: Portion) -> dict[str, float]:
        """A step of an optimiser that evaluates the loss of one batch several times."""
        first: dict[str, float] = {}
        weights = copied(self.tensors)

        def closure() -> float:
            told = self._evaluate(portion)
            norm = float(self._gradient_norm())
            if not math.isfinite(norm):
                raise self._not_finite("the gradient", norm, portion)
            if not first:
                first.update(told, gradient_norm=norm)
            return told["loss"]

        try:
            self.optimiser.step(closure)
        except Exception:
            overwrite(self.tensors, weights)
            raise
        return first

    def _evaluate(self, portion: Portion) -> dict[str, float]:
        """Gradients of the mean loss over the batch of all processes, its value and metrics."""
        self._seed(0)
        self.optimiser.zero_grad(set_to_none=True)
        told = []
        for weight, make in portion.parts:
            batch = self.processes.put(make())
            with self.processes.autocast():
                loss, metrics = self.learner.loss(batch)
            _check_loss(loss)
            weighted = loss if weight == 1 else weight * loss
            if self.processes.scaler is not None:
                weighted = self.processes.scaler.scale(weighted)
            torch.autograd.backward(weighted)
            told.append((weight, {"loss": float(loss.detach()), **metrics}))
        self.processes.sum_gradients(self.parameters)
        mean = self.processes.mean(told)
        if not math.isfinite(mean["loss"]):
            raise self._not_finite("the loss", mean["loss"], portion)
        return dict(mean)

    def _gradient_norm(self) -> Tensor:
        gradients = [p.grad for p in self.parameters if p.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    def _short_of_memory(self, error: Exception, portion: Portion) -> FitError:
        self.optimiser.zero_grad(set_to_none=True)
        try:
            advice = self.learner.advice(self.processes.put(portion.parts[0][1]()))
        except (MemoryError, RuntimeError):
            advice = ""
        advice = advice or "take a smaller batch_size, or accumulate in more parts"
        told = str(error).splitlines()[0] if str(error) else type(error).__name__
        return FitError(
            f"memory does not suffice at step {self.step} (epoch {portion.epoch}, "
            f"{portion.where}): {advice}. It was: {told}"
        )

    def _not_finite(self, what: str, value: float, portion: Portion) -> FitError:
        saved = " The last checkpoint stays." if self.checkpoints is not None else ""
        return FitError(
            f"{what} is {value} at step {self.step} (epoch {portion.epoch}, {portion.where}); this "
            "step was not taken. Look at these samples if they are the cause; else lower the "
            f"learning rate, or set clip.{saved}"
        )

    # -- when to stop and to validate ----------------------------------------------------------

    def _total(self) -> int | None:
        if self.config.steps is not None:
            return self.config.steps
        per_epoch = self.feed.per_epoch
        return None if per_epoch is None else per_epoch * (self.config.epochs or 1)

    def _check_schedule(self) -> None:
        if self.total is None and self.config.schedule == "cosine":
            raise FitError(
                "schedule cosine needs to know the end: the data have no length, so give steps"
            )
        unknown = self.feed.per_epoch is None and self.config.validate_every is None
        if self.heldout is not None and unknown:
            raise FitError("the data have no length: say after how many steps to validate_every")
        if self.config.patience is not None and self.heldout is None:
            raise FitError("patience waits for a better validation: give validation=")

    def _ending(self, asked: bool, seconds: float) -> str:
        if asked:
            return "stopped"
        if self.config.patience is not None and self.stale >= self.config.patience:
            return "early stopping"
        if self.total is not None and self.step >= self.total:
            return "finished"
        if self.config.seconds is not None and seconds >= self.config.seconds:
            return "time"
        return ""

    def _validation_due(self) -> bool:
        if self.heldout is None:
            return False
        every = self.config.validate_every or self.feed.per_epoch
        return self.step == self.total or (every is not None and self.step % every == 0)

    def _validate(self) -> dict[str, float]:
        assert self.heldout is not None
        modules = list(self.learner.modules().values())
        told = []
        with ExitStack() as stack, torch.no_grad():
            if self.averages is not None:
                stack.enter_context(self.averages.applied())
            for module in modules:
                module.eval()
            for number, portion in enumerate(self.heldout.validation()):
                self._seed(1, number)
                for weight, make in portion.parts:
                    with self.processes.autocast():
                        metrics = self.learner.validate(self.processes.put(make()))
                    told.append((weight, metrics))
            for module in modules:
                module.train()
            metrics = self.processes.mean(told)
            self._judge(metrics)
        return {f"validation/{name}": value for name, value in metrics.items()}

    def _judge(self, metrics: dict[str, float]) -> None:
        """Called while what is trained has the values that were validated."""
        if self.config.monitor not in metrics:
            raise FitError(
                f"monitor is {self.config.monitor!r}, and validation gives "
                f"{', '.join(metrics) or 'nothing: its data are empty'}"
            )
        value = metrics[self.config.monitor]
        best = None if self.best is None else self.best.metrics[self.config.monitor]
        sign = -1 if self.config.maximise else 1
        if math.isfinite(value) and (best is None or sign * value < sign * best):
            self.best = Best(self.step, dict(metrics))
            self.stale = 0
            if self.config.keep == "best":
                self.best_tensors = copied(self.tensors)
        else:
            self.stale += 1

    # -- going on ------------------------------------------------------------------------------

    def _continue(self) -> None:
        saved = None
        if self.checkpoints is not None:
            saved = self.processes.agree(self.checkpoints.load() if self.processes.first else None)
        if saved is not None:
            self._check(saved)
            self._restore(saved)
        else:
            self.start = self.feed.start()
        self.processes.same(self.tensors.values())
        if self.averages is not None and saved is None:
            overwrite(self.averages.values, self.tensors)
        self.began = time.perf_counter()
        if saved is None:
            self._save()

    def _save(self) -> None:
        if self.checkpoints is None or not self.processes.first:
            return
        for log in self.logs:
            log.flush()
        scaler = self.processes.scaler
        self.checkpoints.save(
            self.step,
            {
                "identity": self.identity,
                "step": self.step,
                "status": self.status if self.status in ("finished", "early stopping") else "",
                "seconds": self._seconds(),
                "last": self.last,
                "best": None if self.best is None else [self.best.step, self.best.metrics],
                "stale": self.stale,
                "tensors": {name: t.detach() for name, t in self.tensors.items()},
                "averages": None if self.averages is None else self.averages.values,
                "best tensors": self.best_tensors,
                "optimiser": self.optimiser.state_dict(),
                "scaler": None if scaler is None else scaler.state_dict(),
                "learner": self.learner.state(),
                "start": self.start,
            },
        )

    def _check(self, saved: Mapping[str, Any]) -> None:
        changes = list(_changes(saved["identity"], self.identity))
        was = {n: (tuple(t.shape), str(t.dtype)) for n, t in saved["tensors"].items()}
        now = {n: (tuple(t.shape), str(t.dtype)) for n, t in self.tensors.items()}
        changes += _changes(was, now)
        if changes:
            raise FitError(
                f"{self.checkpoints} is of another training: {'; '.join(changes)}. Give what was "
                "given then to go on with it, or another folder to start anew"
            )

    def _restore(self, saved: dict[str, Any]) -> None:
        overwrite(self.tensors, saved["tensors"])
        if self.averages is not None:
            overwrite(self.averages.values, saved["averages"])
        if saved["best"] is not None:
            self.best = Best(*saved["best"])
        if saved["best tensors"] is not None:
            self.best_tensors = copied(self.tensors)
            overwrite(self.best_tensors, saved["best tensors"])
        self.optimiser.load_state_dict(saved["optimiser"])
        if self.processes.scaler is not None and saved["scaler"] is not None:
            self.processes.scaler.load_state_dict(saved["scaler"])
        self.learner.restore(saved["learner"])
        self.step = saved["step"]
        self.status = saved["status"]
        self.before = saved["seconds"]
        self.last = saved["last"]
        self.stale = saved["stale"]
        self.start = saved["start"]
        if not self.status and self.config.seconds is not None:
            self.status = "time" if self.before >= self.config.seconds else ""
        if not self.status:
            self.feed.rewind(self.start)

    # -- what is left as it was ----------------------------------------------------------------

    def _seconds(self) -> float:
        return self.before + time.perf_counter() - self.began

    @contextmanager
    def _logs_open(self) -> Iterator[None]:
        try:
            for log in self.logs:
                log.begin(self.step)
            yield
        except BaseException:
            for log in self.logs:
                with suppress(Exception):  # what ended the training matters more
                    log.close()
            raise
        for log in self.logs:
            log.close()

    @contextmanager
    def _training_mode(self) -> Iterator[None]:
        parts = [part for m in self.learner.modules().values() for part in m.modules()]
        modes = [(part, part.training) for part in parts]
        for module in self.learner.modules().values():
            module.train()
        try:
            yield
        finally:
            for part, mode in modes:
                part.training = mode

    @contextmanager
    def _random_numbers(self) -> Iterator[None]:
        """Torch's global generators are as before after the block."""
        device = self.processes.device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield

    def _seed(self, *stream: int) -> None:
        """What a loss draws from the global generators depends only on seed, step and process."""
        when = () if stream[0] else (self.step,)
        seed = mixed_seed(self.config.seed, self.processes.rank, *stream, *when)
        torch.default_generator.manual_seed(seed)
        if self.processes.device.type == "cuda":
            with torch.cuda.device(self.processes.device):
                torch.cuda.manual_seed(seed)


def _check_loss(loss: Tensor) -> None:
    if loss.numel() != 1 or loss.is_complex():
        raise FitError(
            "the loss must be one real number; the learner gave "
            f"{tuple(loss.shape)} of {loss.dtype}"
        )
    if not loss.requires_grad:
        raise FitError("the loss does not depend on any trained parameter: it has no gradient")


def _of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(
        sign in str(error) for sign in ("allocate memory", "not enough memory", "ALLOC_FAILED")
    )


def _plain(value: Any) -> Any:
    """As it will come back from a file."""
    try:
        return json.loads(json.dumps(value))
    except TypeError as error:
        raise FitError(f"config and identity must be plain values: {error}") from error


def _changes(was: Any, now: Any, name: str = "") -> Iterator[str]:
    if isinstance(was, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*was, *now]):
            yield from _changes(was.get(key), now.get(key), f"{name}.{key}".lstrip("."))
    # Time does not shape the weights that a given step has.
    elif was != now and name != "config.seconds":
        short = name.removeprefix("config.").removeprefix("identity.")
        yield f"{short} was {was!r} and is {now!r}"
