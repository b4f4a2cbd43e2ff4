"""`kpzoo serve`: answers HTTP requests with an exported SavedModel, under Ray Serve."""

import threading

from kpzoo.commands.parsing import command, positive, rate


def add(commands) -> None:
    parser = command(
        commands, "serve", _run, "Serve a SavedModel over HTTP with Ray Serve, until Ctrl-C or SIGTERM.",
        "kpzoo serve serving/cpn/1 --port 8501",
    )  # fmt: skip
    parser.add_argument("folder", help="SavedModel of a pose model, written by kpzoo export")
    parser.add_argument("--name", help="name of the model in the URL; default: that of the network")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for all")
    parser.add_argument("--port", type=positive, default=8501, help="port to listen on")
    parser.add_argument("--metrics-port", type=positive, help="port of the metrics; default: chosen by Ray")
    text = "Ray cluster: local, a new one; auto, the one of this machine or else a new one; or its address"
    parser.add_argument("--ray", metavar="ADDRESS", default="local", help=text)
    parser.add_argument("--replicas", type=positive, default=1, help="processes that hold the model")
    parser.add_argument("--cpus-per-replica", type=rate, metavar="N", default=1.0, help="CPUs of a replica")
    parser.add_argument(
        "--gpus-per-replica", type=rate, metavar="N", help="GPUs of a replica, such as 0.25; default: 0"
    )
    parser.add_argument("--max-bytes", type=positive, help="size of a request; default: 16 million")
    parser.add_argument("--max-pixels", type=positive, help="pixels of a picture; default: 25 million")


def _run(args) -> None:
    from kpzoo.distributed import serving

    with serving.served(
        args.folder,
        host=args.host,
        port=args.port,
        metrics_port=args.metrics_port,
        name=args.name,
        ray=args.ray,
        replicas=args.replicas,
        num_cpus=args.cpus_per_replica,
        num_gpus=args.gpus_per_replica or 0.0,
        limits=serving.Limits(args.max_bytes or serving.MAX_BYTES, args.max_pixels or serving.MAX_PIXELS),
    ) as url:
        print(url, flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:  # requests that were accepted are answered
            return
