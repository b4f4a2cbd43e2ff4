"""`kpzoo weights`: published weights on this machine, for use without a network too."""

import json
from dataclasses import asdict

from kpzoo.commands.parsing import command
from kpzoo.errors import UserError

TEXT = "List, fetch, verify and remove published weights."


def add(commands) -> None:
    parser = commands.add_parser("weights", help=TEXT, description=TEXT)
    parts = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    _add_list(parts)
    _add_fetch(parts)
    _add_verify(parts)
    _add_clear(parts)


def _add_list(parts) -> None:
    parser = command(
        parts, "list", _list, "List the tags of published weights, and which are on this machine.",
        "kpzoo weights list 'hrnet_*'",
    )  # fmt: skip
    parser.add_argument("tag", nargs="*", default=["*"], help="tags, or patterns with * and ?; default: all")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _list(args) -> None:
    from kpzoo.weights import published

    rows = {tag: published.all_rows()[tag] for tag in _tags(args.tag)}
    if args.json:
        print(json.dumps({tag: {**asdict(row), "bytes": published.size_of(tag)} for tag, row in rows.items()}))
        return
    for tag in rows:
        print(f"{tag}: {published.describe(tag)}")


def _add_fetch(parts) -> None:
    parser = command(
        parts, "fetch", _fetch, "Fetch published weights, verify them, and print their files.",
        "kpzoo weights fetch hrnet_w32.mmpose_coco_256x192",
    )  # fmt: skip
    parser.add_argument("tag", nargs="+", help="tags without or with version, or patterns with * and ?")


def _fetch(args) -> None:
    from kpzoo.weights import published

    for tag in _tags(args.tag):
        print((published.fetch_detector if tag in published.DETECTORS else published.fetch_ready)(tag))


def _add_verify(parts) -> None:
    parser = command(
        parts, "verify", _verify, "Compare the digests of the files on this machine. Exit code 2 if one differs.",
        "kpzoo weights verify",
    )  # fmt: skip
    parser.add_argument("tag", nargs="*", default=["*"], help="tags, or patterns with * and ?; default: all")


def _verify(args) -> int:
    from kpzoo.weights import published

    held = list(published.held(_tags(args.tag)))
    for file in held:
        print(f"{file.path}: {file.fault or 'right'}")
    return 2 if any(file.fault for file in held) else 0


def _add_clear(parts) -> None:
    parser = command(
        parts, "clear", _clear, "Remove fetched weights from this machine, and forget their digests.",
        "kpzoo weights clear 'hrnet_w32.*'",
    )  # fmt: skip
    parser.add_argument("tag", nargs="*", help="tags without or with version, or patterns with * and ?")
    parser.add_argument("--all", action="store_true", help="remove all")


def _clear(args) -> None:
    from kpzoo.weights import published

    if bool(args.tag) == args.all:
        raise UserError("Name tags to remove, or pass --all.")
    for path in published.clear(_tags(args.tag or ["*"])):
        print(path)


def _tags(patterns: list[str]) -> list[str]:
    from kpzoo.weights import published

    return list(dict.fromkeys(tag for pattern in patterns for tag in published.matching(pattern)))
