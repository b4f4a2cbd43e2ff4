"""`kpzoo summary`: an HTML summary of a training run."""

from kpzoo.commands.parsing import command


def add(commands) -> None:
    parser = command(
        commands, "summary", _run, "Write summary.html to a run folder, as training does after each epoch.",
        "kpzoo summary runs/first",
    )  # fmt: skip
    parser.add_argument("folder", help="run folder")


def _run(args) -> None:
    from kpzoo.training.summary import write_summary

    print(write_summary(args.folder))
