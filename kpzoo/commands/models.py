"""`kpzoo models`: lists models, or describes one."""

import json

import kpzoo
from kpzoo.commands.parsing import command, import_tensorflow
from kpzoo.errors import UserError


def add(commands) -> None:
    parser = command(commands, "models", _run, "List models, or describe one.", "kpzoo models 'cpn_*'")
    text = "names to list, with wildcards * and ?. A single match also lists options and published weights"
    parser.add_argument("pattern", nargs="?", default="*", help=text)
    parser.add_argument("--json", action="store_true", help="print JSON")


def _run(args) -> None:
    import_tensorflow()
    rows = [kpzoo.info(name) for name in kpzoo.list_models(args.pattern)]
    if not rows:
        raise UserError(f"No model matches {args.pattern!r}. `kpzoo models` lists all models.")
    if args.json:
        print(json.dumps([{**vars(row), "macs": dict(row.macs), "options": dict(row.options)} for row in rows]))
        return
    if len(rows) == 1:
        print(rows[0])
        return
    print(f"{'model':<24}{'family':<16}{'params':>10}{'MACs at size':>22}  paper")
    for row in rows:
        size, macs = next(iter(row.macs.items()))
        counts = f"{row.num_params / 1e6:>8.2f} M{macs / 1e9:>10.2f} G {size:>9}"
        print(f"{row.name:<24}{row.family:<16}{counts}  {row.paper}")
