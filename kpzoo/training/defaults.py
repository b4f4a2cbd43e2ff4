"""The training settings of each model's reference: the defaults of `kpzoo train`."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kpzoo.errors import UserError, unknown

if TYPE_CHECKING:
    import keras

# Shares of a run after which the learning rate falls to a tenth.
TENTHS = {
    "hrnet": (170 / 210, 200 / 210),
    "simplebaseline": (90 / 140, 120 / 140),
    "mipnet": (70 / 110, 100 / 110),  # its COCO models, which start from trained weights
}
SCHEDULES = ("cpn", *TENTHS, "constant")
OPTIMIZERS = ("adam", "adam_l2")
HALVINGS = 6  # parts of a run; in CPN's code the rate is halved after each 60 of 350 epochs
MIN_HALVING_STEPS = 1000  # below it the rate is too small to learn before much has been learned


@dataclass(frozen=True)
class Defaults:
    """Settings that train a model as its authors do.

    Args:
        optimizer: "adam", or "adam_l2" for `AdamL2`.
        learning_rate: Initial learning rate.
        schedule: Learning-rate schedule, one of `SCHEDULES`. Its drops are at the same shares of a run as in the
            reference, however many epochs the run has.
        augment: Augmentation, a key of `kpzoo.data.augment.AUGMENTS`.
    """

    optimizer: str
    learning_rate: float
    schedule: str
    augment: str

    def __post_init__(self):
        for kind, value, known in (("optimizer", self.optimizer, OPTIMIZERS), ("schedule", self.schedule, SCHEDULES)):
            if value not in known:
                raise unknown(kind, value, known)

    def drops(self, num_steps: int) -> list[int]:
        """Returns the steps after which the learning rate falls, in a run of `num_steps` steps."""
        if self.schedule == "cpn":
            every = self._halving_steps(num_steps)
            return list(range(every, num_steps, every))
        return [round(share * num_steps) for share in TENTHS.get(self.schedule, ())]

    def make_optimizer(self, num_steps: int) -> "keras.optimizers.Optimizer":
        """Returns the optimizer for a run of `num_steps` steps."""
        import keras

        from kpzoo.training import optimizers

        rate = self.learning_rate
        if self.schedule == "cpn":
            rate = optimizers.halving(rate, self._halving_steps(num_steps))
        elif self.schedule != "constant":
            rate = optimizers.tenths(rate, self.drops(num_steps))
        return optimizers.AdamL2(rate) if self.optimizer == "adam_l2" else keras.optimizers.Adam(rate)

    def describe(self, num_steps: int) -> str:
        """Returns the settings as one line, for a run of `num_steps` steps."""
        drops = self.drops(num_steps)
        falls = {"cpn": "halved", "constant": "constant"}.get(self.schedule, "divided by 10")
        rate = f"learning rate {self.learning_rate:g}, {falls}"
        if drops:
            rate += f" after step {', '.join(map(str, drops))} of {num_steps}"
        elif self.schedule == "cpn":
            rate = f"learning rate {self.learning_rate:g}, constant in a run of less than {MIN_HALVING_STEPS} steps"
        return f"optimizer {self.optimizer}, {rate}, augmentation {self.augment}"

    @staticmethod
    def _halving_steps(num_steps: int) -> int:
        return max(num_steps // HALVINGS, MIN_HALVING_STEPS)


_CPN = Defaults("adam_l2", 5e-4, "cpn", "cpn")

# By the start of the model's name; the longest one that fits counts.
REFERENCES = {
    "cpn": _CPN,
    "mipnet_cpn": _CPN,
    "mipnet_nano": _CPN,  # a CPN with MIMBs, as the next
    "mipnet_lite": _CPN,
    # As in CPN's comparison; no L2, since their labels reach 1, not 255.
    "hourglass": Defaults("adam", 5e-4, "cpn", "cpn"),
    "dilated": Defaults("adam", 5e-4, "cpn", "cpn"),
    "hourglass_corner": Defaults("adam", 5e-4, "hrnet", "hrnet"),  # MMPose's hourglass52
    "hrnet": Defaults("adam", 1e-3, "hrnet", "hrnet"),
    "mipnet_hrnet": Defaults("adam", 1e-3, "mipnet", "hrnet"),
    "simplebaseline": Defaults("adam", 1e-3, "simplebaseline", "simplebaseline"),
    "mipnet": Defaults("adam", 1e-3, "mipnet", "simplebaseline"),
}


def defaults_of(name: str) -> Defaults:
    """Returns the training defaults of a model of the zoo.

    Args:
        name: Name of a pose model, see `kpzoo.list_models`.

    Raises:
        UserError: The model is a person detector.

    >>> defaults_of("hrnet_w32")
    Defaults(optimizer='adam', learning_rate=0.001, schedule='hrnet', augment='hrnet')
    """
    starts = [start for start in REFERENCES if name.startswith(start)]
    if not starts:
        advice = "Train a person detector with recipes/person_fpn.py."
        raise UserError(f"Expected a pose model. Received: {name!r}. {advice}")
    return REFERENCES[max(starts, key=len)]
