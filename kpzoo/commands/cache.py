"""`kpzoo weights`: published weights on this machine, for use without a network too."""

import json
from dataclasses import asdict

from kpzoo.commands.parsing import command, command_group
from kpzoo.errors import UserError

TAGS = "tags with or without version, or patterns with * and ?"


def add(commands) -> None:
    parts = command_group(commands, "weights", "List, fetch, verify and remove published weights.")
    text = "List the tags of published weights, and which are on this machine."
    parser = command(parts, "list", _list, text, "kpzoo weights list 'hrnet_*'")
    parser.add_argument("tag", nargs="*", default=["*"], help=f"{TAGS}; default: all")
    parser.add_argument("--json", action="store_true", help="print JSON")
    text = "Fetch published weights, verify them, and print their files."
    parser = command(parts, "fetch", _fetch, text, "kpzoo weights fetch hrnet_w32.mmpose_coco_256x192")
    parser.add_argument("tag", nargs="+", help=TAGS)
    text = "Compare the digests of the files on this machine. Exit code 2 if one differs."
    parser = command(parts, "verify", _verify, text, "kpzoo weights verify")
    parser.add_argument("tag", nargs="*", default=["*"], help=f"{TAGS}; default: all")
    text = "Remove fetched weights from this machine, and forget their digests."
    parser = command(parts, "clear", _clear, text, "kpzoo weights clear 'hrnet_w32.*'")
    parser.add_argument("tag", nargs="*", help=TAGS)
    parser.add_argument("--all", action="store_true", help="remove all")


def _list(args) -> None:
    from kpzoo.weights import published

    rows = {tag: published.all_rows()[tag] for tag in _tags(args.tag)}
    if args.json:
        print(json.dumps({tag: {**asdict(row), "bytes": published.size_of(tag)} for tag, row in rows.items()}))
        return
    for tag in rows:
        print(f"{tag}: {published.describe(tag)}")


def _fetch(args) -> None:
    from kpzoo.weights import published

    for tag in _tags(args.tag):
        print((published.fetch_detector if tag in published.DETECTORS else published.fetch_ready)(tag))


def _verify(args) -> int:
    from kpzoo.weights import published

    held = list(published.held(_tags(args.tag)))
    for file in held:
        print(f"{file.path}: {file.fault or 'right'}")
    return 2 if any(file.fault for file in held) else 0


def _clear(args) -> None:
    from kpzoo.weights import published

    if bool(args.tag) == args.all:
        raise UserError("Name tags to remove, or pass --all.")
    for path in published.clear(_tags(args.tag or ["*"])):
        print(path)


def _tags(patterns: list[str]) -> list[str]:
    from kpzoo.weights import published

    return list(dict.fromkeys(tag for pattern in patterns for tag in published.matching(pattern)))
