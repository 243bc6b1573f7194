"""The commands."""

from __future__ import annotations

import inspect
import sys
import warnings
from typing import Any, Literal

import cyclopts
from cyclopts import App, Group

from netopsy._version import __version__
from netopsy.cli import options as o
from netopsy.cli.options import worker_pool
from netopsy.cli.output import Output
from netopsy.cli.progress import show_progress
from netopsy.cli.sources import (
    is_features,
    load_further,
    load_images,
    load_second,
    load_subject,
    load_vectors,
    samples_options,
)
from netopsy.errors import DiskFull, NetopsyError, NetopsyWarning, SettingsError, nearest
from netopsy.studies.table import STUDIES, SWEEPS

_HELP = """What is in a network, what can it lose, and how small can it get?

Example: netopsy examine netopsy:digits-a --samples digits --out case --open"""
# The panels of the help, and what stands in each, in order. A study that is in none stands in the last but one.
PANELS: dict[str, list[str]] = {
    "Start here": ["examine"],
    "Look": [
        *("baseline", "layers", "blocks", "parameters", "distributions", "filters", "priors", "sparsity"),
        *("activations", "field", "reconstruct", "stimuli", "maximize", "facets"),
    ],
    "Stress": ["noise", "rounding", "codebook", "filter_codebook", "triage"],
    "Shrink": ["prescribe", "compress", "expand", "compression", "transfer", "dsd"],
    "Compare": ["correspondence"],
    "More studies": [],
    "Plumbing": ["report", "figure", "serve", "run", "completion"],
}


def main(tokens: list[str] | None = None) -> None:
    """Run one command. Exit code 2 and one sentence on the error stream for a user's mistake, 3 for a full disk, 130
    for an interrupt, 1 for an alert that --fail-on asks for.
    """
    words = sys.argv[1:] if tokens is None else tokens
    warnings.showwarning = _show_warning
    app = build(words[0] if words else "")
    try:
        code = app(words, exit_on_error=False, print_error=False, result_action="return_value")
    except (NetopsyError, cyclopts.CycloptsError) as error:
        sentence = _sentence(error, words) if isinstance(error, cyclopts.CycloptsError) else error
        print(f"netopsy: {sentence}", file=sys.stderr)
        sys.exit(3 if isinstance(error, DiskFull) else 2)
    except PermissionError as error:
        print(f"netopsy: no permission for '{error.filename}': make it readable and writable.", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("netopsy: stopped. The same command with the same --out goes on where it was.", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)
    if isinstance(code, int) and code:
        sys.exit(code)


def _show_warning(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
    """A warning of ours as one line; one of a library as Python writes it."""
    if issubclass(category, NetopsyWarning):
        print(f"netopsy: {message}", file=sys.stderr)
    else:
        sys.stderr.write(warnings.formatwarning(message, category, *where[:2]))


def _sentence(error: cyclopts.CycloptsError, words: list[str]) -> str:
    """What is wrong with the words of a command, and what to write instead."""
    call = f"netopsy {words[0]}" if words else "netopsy"
    unused = list(error.unused_tokens or ())
    if isinstance(error, cyclopts.UnknownCommandError):
        if unused[0].startswith("-"):
            return f"'{unused[0]}' comes before a command: write `netopsy COMMAND` first; `netopsy --help` lists them."
        names = [name for panel in PANELS.values() for name in panel] + list(STUDIES)
        return f"no command '{unused[0]}'; nearest: {nearest(unused[0], names, 1)}. `netopsy --help` lists all."
    if isinstance(error, cyclopts.UnknownOptionError):
        names = [name for one in error.argument_collection for name in one.names if name.startswith("--")]
        word = error.token.keyword or error.token.value
        return f"Unknown option: {word}; nearest: {nearest(word, names, 1)}. `{call} --help` lists all."
    if isinstance(error, cyclopts.MissingArgumentError) and error.argument is not None:
        name, text = error.argument.name, (error.argument.parameter.help or "").rstrip(".")
        if error.keyword or error.argument.tokens:
            return f"{error.keyword or name} needs a value: {text}."
        wrong = [word for word in unused if word.startswith("--") and nearest(word, [name, "-"]) == name]
        if wrong:
            return f"Unknown option: {wrong[0]}; nearest: {name}. `{call} --help` lists all."
        return f"`{call}` needs {name}: {text}. `{call} --help` shows an example."
    if isinstance(error, cyclopts.RepeatArgumentError):
        return f"{error.token.keyword} is given twice: give it once, several values with commas between them."
    if isinstance(error, cyclopts.UnusedCliTokensError):
        spare = ", ".join(f"'{word}'" for word in unused)
        return (
            f"{spare} belongs to no option: a list has commas and no spaces between its values, a switch is --name or "
            "--no-name without a value."
        )
    if isinstance(error, cyclopts.CoercionError) and error.target_type is bool and error.token is not None:
        return f"{error.token.keyword} is a switch: give it without a value."
    return " ".join(str(error).split())


def build(first: str, *, whole: bool = False) -> App:
    """The application; only the study called `first` is imported, the others are names with one line of help.

    whole: import all of them.
    """
    app = App(
        name="netopsy",
        help=_HELP,
        help_format="plaintext",
        version=__version__,
        version_flags=["--version"],
        group_arguments=o.ARGUMENTS,
        group_parameters=o.OUTPUT,
        group_commands=Group("Options", sort_key=len(PANELS)),
        suppress_keyboard_interrupt=False,  # `main` says what to do next
    )
    names = list(PANELS)
    panels = {name: Group(name, sort_key=place) for place, name in enumerate(names)}
    panel_of = {name: panels[panel] for panel, held in PANELS.items() for name in held}
    commands = _plain_commands()
    for name, (_, _, line) in STUDIES.items():
        asked = whole or first.replace("-", "_") == name
        commands[name] = _study_command(name) if asked else o.command(name, line, [o.NETWORK], lambda network: None)
    for place, name in enumerate([name for held in PANELS.values() for name in held]):
        if name in commands:
            app.command(commands[name], name=name, group=panel_of[name], sort_key=place)
    for name in STUDIES:
        if name not in panel_of:
            app.command(commands[name], name=name, group=panels[names[-2]])
        if "_" in name:
            app.command(commands[name], name=name.replace("_", "-"), show=False)
    return app


def _plain_commands() -> dict[str, Any]:
    """The commands that are no studies."""
    from netopsy.cli import compressing as c

    network, layers = "netopsy:digits-a", [o.NETWORK, *o.NETWORK_OPTIONS, *o.TABLES]
    case = o.argument("case", "A case folder.")
    shell = o.argument("shell", "bash, zsh or fish.", Literal["bash", "zsh", "fish"])
    examine = f"netopsy examine {network} --samples digits --out case"
    small = "small.netopsy.safetensors"
    return {
        "examine": o.command("examine", _EXAMINE, _examine_options(), _examine, examine),
        "layers": o.command("layers", c.LAYERS, layers, c.layers, f"netopsy layers {network}"),
        "report": o.command("report", _REPORT, [case, o.OPEN], _report, "netopsy report case --open"),
        "figure": o.command(
            "figure",
            _FIGURE,
            _figure_options(case),
            _figure,
            "netopsy figure case noise/top1 --width 85mm --format pdf",
        ),
        "run": o.command(
            "run",
            _RUN,
            _run_options(),
            _run,
            "netopsy run protocols/autopsy-alexnet.toml --weights alexnet.onnx --out case",
        ),
        "completion": o.command("completion", _COMPLETION, [shell], _completion, _INSTALL),
        "serve": o.command("serve", _SERVE, _serve_options(), _serve, "netopsy serve cases --open"),
        "blocks": o.command("blocks", c.BLOCKS, c.blocks_options(), c.blocks, f"netopsy blocks {network}"),
        "compress": o.command(
            "compress", c.COMPRESS, c.compress_options(), c.compress, f"netopsy compress {network} --out {small}"
        ),
        "expand": o.command(
            "expand", c.EXPAND, c.expand_options(), c.expand, f"netopsy expand {small} --out whole.safetensors"
        ),
    }


_EXAMINE = "Examine a network: run the studies and write one report."
_REPORT = "Write the report of a case again, without the network and the samples."
_FIGURE = "Write a chart or picture of a case for print, laid out for a width; without a name, list them all."
_RUN = "Run an experiment that a protocol (a TOML file) describes."
_SERVE = "Show a case, or a folder of cases with a list of them, in the browser."
_COMPLETION = "Print the script that completes commands and options in a shell."
_INSTALL = "netopsy completion bash > ~/.local/share/bash-completion/completions/netopsy"


def _examine_options() -> list[o.Option]:
    studies = o.option(
        "studies",
        tuple[str, ...] | None,
        f"Which: {', '.join(STUDIES)}. All by default; those that retrain the network only with --train, "
        "those that compare it with a second one only with --other.",
        None,
        o.SETTINGS,
    )
    out = o.option("out", str, "Case folder to write, or to go on with.")
    text = "Stop each score once it is known to within ± this many points (default: use all images)."
    precision = o.option("precision", float | None, text, None, o.SETTINGS)
    train = o.image_options("train", "Images to train on, for the studies that train.")
    other = o.network_options("other", "A second network, for the studies that compare the first with one.")
    shared = [*o.NETWORK_OPTIONS, *o.SAMPLES_OPTIONS, *train, *other, *o.TRIAL_OPTIONS, *o.RUNNING, o.FAIL_ON]
    quick = o.option(
        "quick",
        bool,
        "Only what the first page needs, in at most 2 minutes: the score, alerts, and what each layer stands.",
        False,
        o.SETTINGS,
    )
    return [o.NETWORK, o.SAMPLES, out, studies, quick, *o.TIME, precision, *shared]


def _run_options() -> list[o.Option]:
    weights = o.NETWORK_OPTIONS[0]
    samples = o.option("samples", str | None, "Use these images instead of the protocol's.", None, o.OF_SAMPLES)
    count, out = o.SAMPLES_OPTIONS[1], o.option("out", str, "Case folder to write, or to go on with.")
    protocol = o.argument("protocol", "A TOML file.")
    return [protocol, out, weights, samples, count, *o.TRIAL_OPTIONS, *o.RUNNING]


def _serve_options() -> list[o.Option]:
    text = "Port of this computer to listen on; 8000 or the next that is free by default."
    folder = o.argument("folder", "A case, or a folder that holds cases.")
    return [folder, o.option("port", int | None, text, None), o.OPEN]


def _figure_options(case: o.Option) -> list[o.Option]:
    name = "STUDY/NAME, or NAME where one study has it; with * several at once (quote it). Lists all where left out."
    out = "File to write, or folder where NAME has a *; STUDY-NAME.FORMAT here by default."
    kinds = Literal["svg", "pdf", "png", "npz"]
    return [
        case,
        o.argument("name", name).replace(default=None, annotation=o.argument("name", name, str | None).annotation),
        o.option("width", str, "Width in mm, cm, in, pt or px (of a PNG).", "170mm"),
        o.option("format", kinds | None, "npz: a picture's arrays. By the ending of --out, else pdf.", None),
        o.option("out", str | None, out, None),
        o.option("theme", Literal["light", "dark"], "Dark text on white, or light on black.", "light"),
        o.option("dpi", float, "Dots per inch of a PNG.", 300.0),
        *o.TABLES,
    ]


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
    example = f"netopsy {name} netopsy:digits-a"
    samples = o.SAMPLES
    if not needs.samples:
        samples = o.option("samples", str | None, texts.get("samples", "Not needed."), None, o.OF_SAMPLES)
    elif needs.features:
        samples = o.FEATURES_SAMPLES
    shared = [o.FEATURES if needs.features else o.NETWORK, samples, o.OUT, *o.TABLES, o.TABLE, *o.RUNNING, o.FAIL_ON]
    shared += o.TIME if name in SWEEPS else []
    shared += [*o.NETWORK_OPTIONS, *o.SAMPLES_OPTIONS, *(o.FEATURES_OPTIONS if needs.features else [])]
    shared += o.TRIAL_OPTIONS if "workers" in cls.allows else []
    for field in needs.images:
        shared += o.image_options(field, texts.get(field, ""))
    for field, required in needs.networks.items():
        shared += o.network_options(field, texts.get(field, ""), second=required and field == "other")
        example += " netopsy:digits-b" if required else ""
    shared.sort(key=lambda option: option.kind)  # arguments go before options
    plain = {name: s for name, s in settings_of(cls).items() if name not in (*needs.images, *needs.networks)}
    settings = o.setting_options(get_type_hints(cls), list(plain.values()), doc)
    example += " --samples digits" if needs.samples else ""
    example += " --train-split train" if needs.images.get("train") else ""

    def body(network: str, other: str | None = None, *, samples: str | None, out: str | None, **options: Any) -> int:
        from netopsy.case import Case
        from netopsy.examination import TimeBudget, run_study, with_baseline
        from netopsy.studies.study import check_inputs

        output = Output.take(options)
        if output.open and out is None:
            raise SettingsError("--open shows the report, and there is none without a folder: give --out too.")
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
        with ring, show_progress(name, quiet=output.quiet, verbose=output.verbose) as show:
            case = Case(out) if out else None
            before = _written(case, name)
            budget = TimeBudget(None if options.get("exact", True) else options["minutes"])
            if case:
                for first in with_baseline([study], subject, images)[:-1]:
                    run_study(first, subject, images, case, show, any_kind=True)
            result = run_study(study, subject, images, case, show, budget=budget)
            if case:
                case.write_report()
                case.tidy()
        if before and before == _written(case, name) and not output.quiet:
            print(f"'{name}' is from the case, with the same network, samples and settings.", file=sys.stderr)
        output.show_result(result)
        if case:
            output.open_page(case.path / f"{name}.html")
        return output.exit_code(case.results if case else [result])

    return o.command(name, STUDIES[name][2], [*shared, *settings], body, example, doc.split("\n\n")[0])


def _written(case: Any, study: str) -> int:
    """When the case's result of this study was written; 0 where there is none."""
    path = None if case is None else case.path / study / "result.json"
    return path.stat().st_mtime_ns if path is not None and path.exists() else 0


def _examine(network: str, *, samples: str, out: str, studies: Any, precision: float | None, **options: Any) -> int:
    from netopsy.examination import examine

    output, ring = Output.take(options), worker_pool(options)
    of_images = samples_options(network, options)
    images = load_images(samples, of_images)
    net, train = load_subject(network, options, images), load_further("train", samples, of_images, images)
    other = load_second("other", options, images)
    settings = {"seed": options["seed"]} | ({} if precision is None else {"precision": precision})
    with ring, show_progress(quiet=output.quiet, verbose=output.verbose) as show:
        case = examine(
            net,
            images,
            train=train,
            other=other,
            studies=studies,
            out=out,
            settings=settings,
            minutes=options["minutes"],
            quick=options["quick"],
            exact=options["exact"],
            progress=show,
        )
    output.show_case(case, show.new, show.kept)
    return output.exit_code(case.results)


def _run(
    protocol: str, *, out: str, weights: str | None, samples: str | None, count: int | None, **options: Any
) -> None:
    from netopsy.protocol.run import run_protocol

    output = Output.take(options)
    with worker_pool(options), show_progress(quiet=output.quiet, verbose=output.verbose) as show:
        case = run_protocol(protocol, out=out, weights=weights, samples=samples, count=count, progress=show)
    output.show_case(case, show.new, show.kept)


def _report(case: str, **options: Any) -> None:
    from netopsy.case import Case

    page = Case(case, create=False).write_report()
    print(page)
    Output.take(options).open_page(page)


def _figure(case: str, name: str | None = None, **options: Any) -> None:
    from netopsy.case import Case

    Output.take(options).write_figures(Case(case, create=False), name, **options)


def _serve(folder: str, *, port: int | None, **options: Any) -> None:
    from netopsy.cli.serve import serve

    serve(folder, port, Output.take(options))


def _completion(shell: Literal["bash", "zsh", "fish"]) -> None:
    print(build("", whole=True).generate_completion(shell=shell))
