"""The commands."""

from __future__ import annotations

import inspect
import sys
import warnings
from typing import Any

import cyclopts
from cyclopts import App

from netopsy._version import __version__
from netopsy.cli import options as o
from netopsy.cli.options import worker_pool
from netopsy.cli.output import print_result, print_table, progress
from netopsy.cli.sources import (
    is_features,
    load_further,
    load_images,
    load_second,
    load_subject,
    load_vectors,
    samples_options,
)
from netopsy.errors import NetopsyError, NetopsyWarning
from netopsy.studies.table import STUDIES

_HELP = "What is in a network, what can it lose, and how small can it get?"
_SPARE = "a list has commas and no spaces between its values, a switch is --name or --no-name without a value."


def main(tokens: list[str] | None = None) -> None:
    """Run one command; a user's mistake is one sentence on the error stream and exit code 2."""
    words = sys.argv[1:] if tokens is None else tokens
    warnings.showwarning = _show_warning
    try:
        build(words[0] if words else "")(words, exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.UnusedCliTokensError as error:
        spare = ", ".join(f"'{token}'" for token in error.unused_tokens or ())
        print(f"netopsy: {spare} belongs to no option: {_SPARE}", file=sys.stderr)
        sys.exit(2)
    except (NetopsyError, cyclopts.CycloptsError) as error:
        print(f"netopsy: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("netopsy: stopped. The same command with the same --out goes on where it was.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)


def _show_warning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """A warning of ours as one line; one of a library as Python writes it."""
    if issubclass(category, NetopsyWarning):
        print(f"netopsy: {message}", file=sys.stderr)
    else:
        sys.stderr.write(warnings.formatwarning(message, category, *where[:2]))


def build(first: str) -> App:
    """The application; only the study called `first` is imported, the others are names with one line of help."""
    app = App(
        name="netopsy",
        help=_HELP,
        version=__version__,
        version_flags=["--version"],
        suppress_keyboard_interrupt=False,  # `main` says what to do next
    )
    app.command(o.command("examine", _EXAMINE, _examine_options(), _examine), name="examine")
    for name, (_, _, line) in STUDIES.items():
        key = first.replace("-", "_") == name
        function = _study_command(name) if key else o.command(name, line, [o.NETWORK], lambda network: None)
        app.command(function, name=[name, name.replace("_", "-")] if "_" in name else name)
    layers = [o.NETWORK, *o.NETWORK_OPTIONS, o.JSON]
    app.command(o.command("layers", _LAYERS, layers, _layers), name="layers")
    app.command(o.command("report", _REPORT, [o.argument("case", "A case folder.")], _report), name="report")
    app.command(o.command("run", _RUN, _run_options(), _run), name="run")
    for name, function in _file_commands().items():
        app.command(function, name=name)
    return app


_EXAMINE = "Run a set of studies on one network and write a report."
_COLUMNS = ["layer", "kind", "weight", "groups", "parameters", "share", "output", "macs", "field"]
_LAYERS = "List the weight-bearing layers in order of execution."
_REPORT = "Write the report of a case folder anew, without network and images."
_RUN = "Run the whole experiment that a protocol (a TOML file) describes."


def _examine_options() -> list[o.Option]:
    studies = o.option(
        "studies",
        tuple[str, ...] | None,
        f"Which: {', '.join(STUDIES)}. All by default; those that retrain the network only with --train, "
        "those that compare it with a second one only with --other.",
        None,
    )
    out = o.option("out", str, "Case folder to write, or to go on with.")
    precision = o.option("precision", float | None, "Stop each score at +- this many points (adaptive).", None)
    train = o.image_options("train", "Images to train on, for the studies that train.")
    other = o.network_options("other", "A second network, for the studies that compare the first with one.")
    shared = [*o.NETWORK_OPTIONS, *o.SAMPLES_OPTIONS, *train, *other, *o.TRIAL_OPTIONS]
    return [o.NETWORK, o.SAMPLES, out, studies, precision, *shared]


def _run_options() -> list[o.Option]:
    weights = o.NETWORK_OPTIONS[0]
    samples = o.option("samples", str | None, "Use these images instead of the protocol's.", None)
    count, out = o.SAMPLES_OPTIONS[1], o.option("out", str, "Case folder to write, or to go on with.")
    return [o.argument("protocol", "A TOML file."), out, weights, samples, count, *o.TRIAL_OPTIONS]


def _file_commands() -> dict[str, Any]:
    """The commands that list blocks, and that write and read compressed files."""
    from netopsy.cli import compressing as b
    from netopsy.cli import compressing as c

    return {
        "blocks": o.command("blocks", b.BLOCKS, b.blocks_options(), b.blocks),
        "compress": o.command("compress", c.COMPRESS, c.compress_options(), c.compress),
        "expand": o.command("expand", c.EXPAND, c.expand_options(), c.expand),
    }


def _study_command(name: str) -> Any:
    """The command of one study: its settings beside the options of network and samples."""
    from dataclasses import fields
    from typing import get_type_hints

    from netopsy.settings import settings_of
    from netopsy.studies.study import check_other, takes
    from netopsy.studies.table import study_class

    cls = study_class(name)
    needs = takes(cls)
    defaults = {f.name: f.default for f in fields(cls)}
    doc = inspect.cleandoc(cls.__doc__ or "")
    texts = o.setting_texts(doc, ["samples", *defaults])
    samples = o.SAMPLES
    if not needs.samples:
        samples = o.option("samples", str | None, texts.get("samples", "Not needed."), None)
    elif needs.features:
        samples = o.FEATURES_SAMPLES
    shared = [o.FEATURES if needs.features else o.NETWORK, samples, o.OUT, o.JSON, *o.NETWORK_OPTIONS]
    shared += [*o.SAMPLES_OPTIONS, *(o.FEATURES_OPTIONS if needs.features else [])]
    shared += o.TRIAL_OPTIONS if "workers" in cls.allows else []
    for field in needs.images:
        shared += o.image_options(field, texts.get(field, ""))
    for field, required in needs.networks.items():
        shared += o.network_options(field, texts.get(field, ""), second=required and field == "other")
    shared.sort(key=lambda option: option.kind)  # arguments go before options
    plain = {name: s for name, s in settings_of(cls).items() if name not in (*needs.images, *needs.networks)}
    settings = o.setting_options(get_type_hints(cls), list(plain.values()), doc)

    def body(
        network: str, other: str | None = None, *, samples: str | None, out: str | None, json: bool, **options: Any
    ) -> None:
        from netopsy.case import Case
        from netopsy.examination import run_study
        from netopsy.studies.study import check_inputs

        options["other"] = other
        check_other(cls, other)
        chosen, ring = {key: value for key, value in options.items() if key in plain}, worker_pool(options)
        if needs.features and is_features(network):
            subject, images = load_vectors(network, samples, options, defaults), None
            study = cls(**chosen, **{field: load_second(field, options) for field in needs.networks})
        else:
            cls(**chosen)  # a mistake in a setting is reported before the network and images are loaded
            of_images = samples_options(network, options)
            images = load_images(samples, of_images)
            subject = load_subject(network, options, images)
            further = {field: load_further(field, samples, of_images, images) for field in needs.images}
            others = {field: load_second(field, options, images) for field in needs.networks}
            study = cls(**chosen, **further, **others)
        check_inputs(study, subject, images)  # before the folder is made
        with ring, progress() as show:
            case = Case(out) if out else None
            result = run_study(study, subject, images, case, show)
            if case:
                case.write_report()
        print_result(result, json)

    return o.command(name, doc.split("\n\n")[0], [*shared, *settings], body)


def _examine(network: str, *, samples: str, out: str, studies: Any, precision: float | None, **options: Any) -> None:
    from netopsy.examination import examine

    ring = worker_pool(options)
    of_images = samples_options(network, options)
    images = load_images(samples, of_images)
    net, train = load_subject(network, options, images), load_further("train", samples, of_images, images)
    other = load_second("other", options, images)
    settings = {"seed": options["seed"]} | ({} if precision is None else {"precision": precision})
    with ring, progress() as show:
        case = examine(
            net, images, train=train, other=other, studies=studies, out=out, settings=settings, progress=show
        )
    _print_case(case)


def _run(
    protocol: str, *, out: str, weights: str | None, samples: str | None, count: int | None, **options: Any
) -> None:
    from netopsy.protocol.run import run_protocol

    with worker_pool(options), progress() as show:
        case = run_protocol(protocol, out=out, weights=weights, samples=samples, count=count, progress=show)
    _print_case(case)


def _print_case(case: Any) -> None:
    for result in case.results:
        for finding in result.findings[:3]:
            print(f"{result.study}: {finding}")
    print(f"\nReport: {case.path / 'index.html'}")


def _layers(network: str, *, json: bool, **options: Any) -> None:
    from netopsy.network.listing import list_layers, other_parameters

    net = load_subject(network, options)
    frame = list_layers(net)
    if json:
        print(frame.write_json())
        return
    print_table(frame.select(_COLUMNS), net.name, rows=frame.height)
    rest = sum(other_parameters(net).values())
    print(f"\n{frame.height} layers hold {net.parameters - rest:,} of {net.parameters:,} parameters, others {rest:,}.")


def _report(case: str) -> None:
    from netopsy.case import Case

    print(Case(case, create=False).write_report())
