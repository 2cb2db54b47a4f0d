"""No file of the code runs what a file, a page or a name says: constructs that could are found by their form."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("common", "imaging", "runtime", "gan", "segmentation", "engine", "assets", "pipeline", "benchmarks", "deploy")
RUNS_CODE = ("pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
HARMLESS = {("pickle", "UnpicklingError")}
FORBIDDEN = {
    "eval": "eval",
    "exec": "exec",
    "__import__": "__import__",
    "os.system": "a shell",
    "os.popen": "a shell",
    "subprocess.getoutput": "a shell",
    "subprocess.getstatusoutput": "a shell",
    "yaml.unsafe_load": "YAML that makes objects",
    "yaml.full_load": "YAML that makes objects",
    "pd.read_pickle": "pickle",
    "pandas.read_pickle": "pickle",
    "torch.jit.load": "code of a file",
    "tempfile.mktemp": "a name that another may take",
    "Template": "a page without autoescape",
    "jinja2.Template": "a page without autoescape",
}
# Calls that are safe with one keyword only, and calls that one keyword makes unsafe.
REQUIRED = {
    "torch.load": ("weights_only", True),
    "yaml.load": ("Loader", "SafeLoader"),
    "Environment": ("autoescape", True),
    "jinja2.Environment": ("autoescape", True),
    "extractall": ("filter", "data"),
}
UNSAFE_KEYWORDS = (("shell", True), ("allow_pickle", True), ("weights_only", False))


def unsafe(source: str) -> list[str]:
    """Return what is unsafe in a module, each with its line."""
    found = []
    for node in ast.walk(ast.parse(source)):
        what = _import(node) if isinstance(node, ast.Import | ast.ImportFrom) else _call(node)
        found += [f"line {node.lineno}: {what}"] if what else []  # type: ignore[attr-defined]
    return found


def _import(node: ast.Import | ast.ImportFrom) -> str:
    names = [(alias.name, "") for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        names = [(node.module or "", alias.name) for alias in node.names]
    bad = [name for name in names if name[0].partition(".")[0] in RUNS_CODE and name not in HARMLESS]
    return f"import of {bad[0][0]}" if bad else ""


def _call(node: ast.AST) -> str:
    if not isinstance(node, ast.Call):
        return ""
    name, last = ast.unparse(node.func), getattr(node.func, "attr", "")
    given = {keyword.arg: _value(keyword.value) for keyword in node.keywords}
    for keyword, value in UNSAFE_KEYWORDS:
        if keyword in given and given[keyword] != (not value):
            return f"{name} with {keyword}"
    if name.startswith("requests.") and given.get("verify", True) is not True:
        return f"{name} without a check of the certificate"
    for called, (keyword, value) in REQUIRED.items():
        if called in (name, last) and given.get(keyword) != value:
            return f"{name} without {keyword}={value}"
    return FORBIDDEN.get(name, "")


def _value(node: ast.expr) -> object:
    return node.value if isinstance(node, ast.Constant) else ast.unparse(node).rpartition(".")[2]


FILES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]


def test_no_module_has_an_unsafe_construct():
    assert len(FILES) > 200
    found = {str(path.relative_to(ROOT)): unsafe(path.read_text()) for path in FILES}
    assert {path: what for path, what in found.items() if what} == {}


def test_every_table_is_written_so_that_a_spreadsheet_computes_no_name():
    found = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in FILES
        if path.relative_to(ROOT).parts[0] != "benchmarks" and path.name != "tables.py"
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if re.search(r"\.to_csv\((?!index=False\))|csv\.writer|DictWriter", line)  # without a file: for a digest
    ]
    assert found == []


def test_one_environment_makes_every_page():
    makers = [path.relative_to(ROOT) for path in FILES if "jinja2" in path.read_text()]
    assert makers == [Path("common/pages/kit.py")]
    written = [path.relative_to(ROOT) for path in FILES if "<html" in path.read_text().lower()]
    assert written == []


def test_no_page_lets_markup_through():
    pages = [path for path in ROOT.rglob("*.j2") if ".venv" not in path.parts]
    assert len(pages) >= 8
    through = re.compile(r"\|\s*safe\b|autoescape\s+false|</script>\s*\{\{|on\w+=\"\{\{")
    assert [path.name for path in pages if through.search(path.read_text())] == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from pickle import loads",
        "from joblib import load",
        "import a, dill as d",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "load_it(path, weights_only=trusted)",
        "yaml.load(text)",
        "yaml.load(text, Loader=yaml.Loader)",
        "eval('1')",
        "exec(text)",
        "subprocess.run('ls', shell=True)",
        "subprocess.run('ls', shell=asked)",
        "os.system('ls')",
        "Environment(loader=x)",
        "jinja2.Environment(autoescape=False)",
        "Template('x')",
        "np.load(path, allow_pickle=True)",
        "requests.get(url, verify=False)",
        "archive.extractall(folder)",
    ],
)
def test_what_is_unsafe_is_found(source: str):
    assert len(unsafe(source)) == 1


@pytest.mark.parametrize(
    "source",
    [
        "from pickle import UnpicklingError",
        "torch.load(path, weights_only=True)",
        "yaml.load(text, Loader=yaml.SafeLoader)",
        "yaml.safe_load(text)",
        "network.eval()",
        "subprocess.run(['ls'], shell=False)",
        "Environment(autoescape=True)",
        "np.load(path)",
        "archive.extractall(folder, filter='data')",
    ],
)
def test_what_is_safe_is_not(source: str):
    assert unsafe(source) == []
