"""`kpzoo summary`: the page of a training run."""

from kpzoo.commands.parsing import command


def add(commands) -> None:
    parser = command(
        commands, "summary", _run, "Write summary.html into the folder of a training run, as training does.",
        "kpzoo summary runs/first",
    )  # fmt: skip
    parser.add_argument("folder", help="that of the run")


def _run(args) -> None:
    from kpzoo.training.summary import write_summary

    print(write_summary(args.folder))
