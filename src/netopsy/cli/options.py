"""Options that commands share, as parameters that cyclopts reads."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Annotated, Any, Literal, get_args, get_origin

from cyclopts import Group, Parameter

from netopsy.settings import Setting, members

Option = inspect.Parameter
# The panels of a command's help, from above.
ARGUMENTS, SETTINGS, OF_SAMPLES, OF_NETWORK, TRIALS, OUTPUT = (
    Group(name, sort_key=place)
    for place, name in enumerate(("Arguments", "Study", "Samples", "Network", "Where trials run", "Output"))
)


def _element(kind: Any) -> Any:
    """Type of a tuple's elements, or None where `kind` is no tuple."""
    for part in members(kind):
        if get_origin(part) is tuple:
            return get_args(part)[0]
    return None


def _commas(kind: Any, tokens: Any) -> tuple[Any, ...]:
    element = _element(kind)
    if element not in (int, float):
        element = str
    parts = [part.strip() for token in tokens for part in token.value.split(",")]
    return tuple(_value(element, part) for part in parts if part)


def _integer(kind: Any, tokens: Any) -> int:
    """An integer as it is written: cyclopts itself would round 1.5."""
    return int(_value(int, tokens[0].value))


def _value(kind: Any, text: str) -> Any:
    try:
        return kind(text)
    except ValueError as error:
        raise ValueError(f"'{text}' is no {'whole ' if kind is int else ''}number.") from error


def option(name: str, kind: Any, help: str, default: Any = Option.empty, group: Group = OUTPUT) -> Option:
    """A keyword option; a tuple takes its values separated by commas. group: its panel in the help."""
    extra: dict[str, Any] = {"group": group}
    if _element(kind) is not None:
        extra |= {"converter": _commas, "n_tokens": 1, "allow_leading_hyphen": True}
        extra["show_default"] = (lambda values: ",".join(map(str, values))) if default else False
    elif kind in (int, int | None):
        extra["converter"] = _integer
    annotation = Annotated[kind, Parameter(help=help, negative_iterable=(), **extra)]
    return Option(name, Option.KEYWORD_ONLY, default=default, annotation=annotation)


def switch(name: str, help: str) -> Option:
    """An option without a value, off unless it is given."""
    more = Parameter(help=help, negative=(), show_default=False, group=OUTPUT)
    return Option(name, Option.KEYWORD_ONLY, default=False, annotation=Annotated[bool, more])


def argument(name: str, help: str, kind: Any = str) -> Option:
    """A required argument."""
    return Option(name, Option.POSITIONAL_ONLY, annotation=Annotated[kind, Parameter(help=help, group=ARGUMENTS)])


def grouped(group: Group, options: Iterable[Option]) -> list[Option]:
    """The options, in this panel of the help."""
    return [one.replace(annotation=Annotated[one.annotation, Parameter(group=group)]) for one in options]


def command(
    name: str, line: str, options: Iterable[Option], body: Callable[..., Any], example: str = "", more: str = ""
) -> Callable[..., Any]:
    """`body` as a function that cyclopts sees with these options and this help.

    line: the command in one sentence. example: a call. more: what its own help says below.
    """
    named: dict[str, Option] = {}
    for parameter in options:
        named.pop(parameter.name, None)  # of two of one name the later, in its own place
        named[parameter.name] = parameter
    parameters = list(named.values())
    signature = inspect.Signature(parameters)

    def function(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return body(*bound.args, **bound.kwargs)

    function.__signature__ = signature  # type: ignore[attr-defined]
    function.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    function.__name__ = name
    function.__doc__ = "\n\n".join(filter(None, (line, f"Example: {example}" if example else "", more)))
    return function


NETWORK = argument(
    "network", "torchvision:NAME, timm:NAME, netopsy:NAME, hf:FOLDER, package.module:factory or a file naming one."
)

PREPROCESSING = [
    option("size", tuple[int, ...] | None, "Input size: one number, or height,width.", None),
    option("resize", int | None, "Shorter side before the central crop.", None),
    option("mean", tuple[float, ...] | None, "Mean of each channel, after scaling.", None),
    option("std", tuple[float, ...] | None, "Standard deviation of each channel, after scaling.", None),
    option("channels", str | None, "RGB, BGR or L; a number for pictures of as many channels.", None),
    option("scale", float | None, "Factor on the pixels 0..255 before mean and std.", None),
    option("interpolation", Literal["nearest", "bilinear", "bicubic"] | None, "How images are resized.", None),
]
LENGTH = "Tokens or steps that the network takes (hf:, --tokenizer); else values at which recordings are cut."
NETWORK_OPTIONS = grouped(
    OF_NETWORK,
    [
        option(
            "weights", str | None, "A file (safetensors, pt, pth, th, onnx) or the name of published weights.", None
        ),
        option("state", str | None, "Of a checkpoint with several networks, the key of the one to take.", None),
        option("match", Literal["name", "order"] | None, "How weights find their places: by name, or in order.", None),
        option("num_classes", int | None, "Number of outputs, where it is not the architecture's usual one.", None),
        option(
            "head", str | None, "Of hf: another head than its own, as sequence-classification; base for none.", None
        ),
        option("length", int | None, LENGTH, None),
        option("tokenizer", str | None, "Folder or tokenizer.json, for a module of your own that takes tokens.", None),
        switch("download", "Fetch hf:ORG/NAME from its hub."),
        option(
            "shape",
            str | None,
            "Of onnx:FILE, sizes of a sample that it leaves open: 3x48x96, or ids=16,mask=16.",
            None,
        ),
        option("fixed", str | None, "Of onnx:FILE, values of inputs that are given once: sr=16000,state=0.", None),
        switch("own_dtype", "Compute in the weights' own floating type in place of float32."),
        option("output", str | None, "Of several outputs the one to examine: its name or its number.", None),
        *PREPROCESSING,
        option("device", str | None, "cpu, cuda, cuda:1, ...", None),
    ],
)
SAMPLES_OPTIONS = grouped(
    OF_SAMPLES,
    [
        option("split", str | None, "Part of the image set, where it has parts.", None),
        option("count", int | None, "Take this many samples, spread evenly over the classes.", None),
        option("labels", str | None, "CSV file of labels, for a flat folder of images or recordings.", None),
        option("classes", str | None, "Names of the classes by their number: a file with one a line, or JSON.", None),
        option("root", str | None, "Where torchvision finds its data sets.", None),
        option(
            "task",
            str | None,
            "What right means: classification, next-token, regression, ... or module:function.",
            None,
        ),
        option("label", tuple[str, ...] | None, "Column of labels, or several; `none`: samples without labels.", None),
        option(
            "text", tuple[str, ...] | None, "Column of texts; two for an encoder and a decoder: SOURCE,TARGET.", None
        ),
        option(
            "columns", tuple[str, ...] | None, "Columns of a table that the network takes as a row of numbers.", None
        ),
        option("categorical", tuple[str, ...] | None, "Columns of numbers that are categories.", None),
        option(
            "categories",
            str | None,
            "JSON file {column: [words]}, where not all parts of a table have all words.",
            None,
        ),
        option(
            "encoding", Literal["onehot", "codes"] | None, "How categories reach the network; codes: embeddings.", None
        ),
        option("file", str | None, "Column of files, in a table of images or recordings.", None),
        option("kind", Literal["image", "tokens", "series", "vector", "array"] | None, "What arrays are.", None),
        option("range", tuple[float, ...] | None, "low,high: the values of arrays that become 0 and 1.", None),
        option("rate", int | None, "Values a second, to which recordings are resampled.", None),
        option("length", int | None, LENGTH, None),
        option("mono", bool | None, "The mean of a recording's channels.", None),
        option("outside", bool | None, "Follow links and names in tables out of the folder.", None),
        option("empty", Literal["error", "skip"] | None, "What to do with empty lines of a text file.", None),
        option("seed", int, "Seed of every random choice.", 0),
    ],
)
SOURCES = (
    "Folder, table (.csv, .parquet, .jsonl, ...), .txt, .npz, .npy, .tar, digits, torchvision:NAME, frames:FOLDER, or "
    "NAME=FOLDER,NAME=FOLDER"
)
SAMPLES = option("samples", str, f"{SOURCES}.", group=OF_SAMPLES)
FEATURES = argument("network", "A network as elsewhere, or features: a .npy, .npz or .parquet of vectors with labels.")
FEATURES_SAMPLES = option("samples", str | None, f"{SOURCES}; not with features.", None, OF_SAMPLES)
FEATURES_OPTIONS = grouped(
    OF_SAMPLES,
    [
        option("x", str | None, "Vectors in a features file: an array's name, columns NAME,NAME or NAME*.", None),
        option("y", str | None, "Labels in a features file: an array's or a column's name.", None),
        option("labels", str | None, "CSV of labels, for a flat folder; .npy, .csv or .txt for a features .npy.", None),
        option(
            "split", str | None, "Part of the image set; of a features .parquet the column of train and test.", None
        ),
    ],
)
OUT = option("out", str | None, "Case folder that the result is added to.", None)
JSON = switch("json", "Print the tables as JSON, whole.")
CSV = switch("csv", "Print the tables as CSV, whole.")
ALL_COLUMNS = switch("all_columns", "Print every column, however wide the table becomes.")
TABLES = [JSON, CSV, ALL_COLUMNS]
TABLE = option("table", str | None, "Print this one of the tables alone.", None)
OPEN = switch("open", "Open the report in the browser when it is done.")
QUIET = switch("quiet", "Show no progress, and print findings only; of an examination only where its report is.")
VERBOSE = switch("verbose", "Print every finding, and keep a line of progress for each study.")
FAIL_ON = option(
    "fail_on",
    Literal["error", "warning"] | None,
    "End with exit code 1 where there is an alert of this level or worse: of the case with --out, else of the result.",
    None,
)
RUNNING = [OPEN, QUIET, VERBOSE]
TIME = [
    option(
        "minutes",
        float,
        "Time to spend. What takes longer is estimated on part of the samples, with intervals that say how well; more "
        "minutes go on from there.",
        10.0,
        SETTINGS,
    ),
    option("exact", bool, "Take as long as it takes, with all samples.", False, SETTINGS),
]
TRIAL_OPTIONS = [
    option("workers", int | None, "Trials at a time, each in a process of its own.", None, TRIALS),
    option("cluster", Literal["ray"] | None, "Run trials on Ray (needs the extra `cluster`).", None, TRIALS),
    option("address", str | None, "A Ray that runs already: HOST:PORT or auto. Else one starts here.", None, TRIALS),
    option("trial_cpus", float, "Cores that a trial takes on a cluster, fractions too.", 1.0, TRIALS),
    option("trial_gpus", float, "GPUs that a trial takes, fractions too.", 0.0, TRIALS),
]


def image_options(name: str, text: str) -> list[Option]:
    """The options of further images that a study takes, such as those to train on."""
    text = text or f"The study's {name} images."
    return grouped(
        OF_SAMPLES,
        [
            option(name, str | None, f"{text[:1].upper()}{text[1:]} A source as that of --samples.", None),
            option(f"{name}_split", str | None, f"Part for --{name}; of --samples where --{name} is not given.", None),
            option(f"{name}_count", int | None, f"Take this many of the {name} images, spread over the classes.", None),
        ],
    )


def network_options(name: str, text: str, *, second: bool = False) -> list[Option]:
    """The options of a further network that a study takes; second: it may be the argument after the first network."""
    text = text or f"The study's {name} network."
    group = ARGUMENTS if second else OF_NETWORK
    source = option(name, str | None, f"{text[:1].upper()}{text[1:]} A source as that of the first.", None, group)
    further = [
        option(f"{name}_weights", str | None, f"A file, or the name of published weights, for --{name}.", None),
        option(f"{name}_state", str | None, f"Key of the network to take in --{name}-weights.", None),
        option(
            f"{name}_num_classes", int | None, f"Number of outputs of --{name}, where it is not the usual one.", None
        ),
    ]
    return [source.replace(kind=Option.POSITIONAL_OR_KEYWORD) if second else source, *grouped(OF_NETWORK, further)]


def setting_options(hints: dict[str, Any], settings: list[Setting], doc: str) -> list[Option]:
    """A study's settings as options, with the help that its docstring gives and the range that their types declare."""
    texts = setting_texts(doc, [setting.name for setting in settings])
    return [option(s.name, hints[s.name], _help(s, texts.get(s.name, "")), s.default, SETTINGS) for s in settings]


def _help(setting: Setting, text: str) -> str:
    """A docstring's words on a setting, and its range, as the help of an option."""
    name = setting.name
    if name == "seed":  # the option of this name that the images have gives way to the study's
        text = f"seed {text.removesuffix('.')}, and of the images that --count takes."
    first = text.split(" ", 1)[0]
    text = text if ":" in first else text[:1].upper() + text[1:]
    several = "Several: with commas between them." if setting.several else ""
    choices = f"Choices: {', '.join(setting.choices)}." if setting.several and setting.choices else ""
    return " ".join(filter(None, (text, setting.range, choices, several)))


def setting_texts(doc: str, names: list[str]) -> dict[str, str]:
    """The lines `name: text` or `name, other: text` of a docstring, with their continuation lines."""
    texts: dict[str, str] = {}
    current: list[str] = []
    for line in inspect.cleandoc(doc).splitlines():
        match = re.match(r"(\w+(?:, \w+)*): (.+)", line)
        if match and set(match[1].split(", ")) <= set(names):
            current = match[1].split(", ")
            texts.update(dict.fromkeys(current, match[2]))
        elif current and line.startswith("    "):
            texts.update({name: f"{texts[name]} {line.strip()}" for name in current})
        else:
            current = []
    return texts


def worker_pool(options: dict[str, Any]) -> AbstractContextManager[Any]:
    """`workers` with the values of --workers, --cluster, --address, --trial-cpus and --trial-gpus, where there are."""
    if "workers" not in options:
        return nullcontext()
    from netopsy.engine.trials.pool import workers

    named = {name: options[name] for name in ("cluster", "address")}
    return workers(options["workers"], **named, cpus=options["trial_cpus"], gpus=options["trial_gpus"])
