"""Ways to hand over a secret: each is refused before anything is made, and no file or line repeats it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.conftest import Cli
from vllm_hpc.schedulers.in_script.export_environment import to_shell
from vllm_hpc.spec.errors import RequestError
from vllm_hpc.spec.secret_shapes import redact, shown_secret
from vllm_hpc.spec.values import check_shell_lines, check_words

pytestmark = pytest.mark.trust

# Made up, and split so that no scanner of repositories takes them for real ones.
HF = "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZ01234567"
OPENAI = "sk-" + "proj-a1B2c3D4e5F6g7H8i9J0_k1L2m3N4"
SHAPES = {
    "hf": HF,
    "openai": OPENAI,
    "openai-old": "sk-" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8s9T0u1V2w3X4",
    "anthropic": "sk-" + "ant-api03-a1B2c3D4e5F6g7H8i9J0k1L2m3",
    "github": "ghp_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8",
    "github-oauth": "gho_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8",
    "github-fine": "github_pat_" + "11ABCDEFG0a1B2c3D4e5F6_g7H8i9J0k1L2m3N4o5P6q7R8",
    "aws": "AKIA" + "IOSFODNN7EXAMPLE",
    "slack-bot": "xoxb-" + "123456789012-1234567890123-a1B2c3D4e5F6g7H8",
    "slack-person": "xoxp-" + "123456789012-1234567890123-a1B2c3D4e5F6g7H8",
    "gitlab": "glpat-" + "a1B2c3D4e5F6g7H8i9J0",
    "google": "AIza" + "SyA1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q",
    "npm": "npm_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8",
    "pypi": "pypi-" + "AgEIcHlwaS5vcmcCJDAxMjM0NTY3LTg5YWItY2RlZg",
    "jwt": "eyJ" + "hbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N",
    "pem": "-----BEGIN " + "PRIVATE KEY-----MIIEvQIBADANBgkqhkiG9w0BAQEFAASC-----END PRIVATE KEY-----",
    "pem-rsa": "-----BEGIN " + "RSA PRIVATE KEY-----MIIEvQIBADANBgkqhkiG9w0BAQEFAASC",
    "nvidia": "nvapi-" + "a1B2c3D4e5F6g7H8i9J0k1L2m3",
    "groq": "gsk_" + "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6",
}
WORD = "hunter2hunter2"
URL = f"http://me:{WORD}@proxy.example.org:3128"


class Way(NamedTuple):
    """Words after ``submit model --rehearse``, or files in the working directory; ``secret`` must be nowhere."""

    words: tuple[str, ...]
    secret: str = WORD
    file: str = ""
    text: str = ""


def env(name: str, value: str = WORD, secret: str = WORD) -> Way:
    return Way(("--env", f"{name}={value}"), secret)


def option(name: str, value: str, secret: str = WORD) -> Way:
    return Way((f"--{name}", value), secret)


def site(line: str, secret: str = WORD) -> Way:
    return Way(("--profile", "site"), secret, "vllm-hpc.toml", f"[profiles.site]\nscheduler = 'slurm'\n{line}\n")


def setup(line: str, secret: str = WORD) -> Way:
    return site(f"setup = ['''{line}''']", secret)


def definition(text: str, secret: str = WORD) -> Way:
    return Way((), secret, "definition/job.toml", f"model = '../model'\n{text}\n")


NAMES = (
    "HF_TOKEN", "DB_PASS", "PGPASS", "PGPASSWORD", "MYSQL_PWD", "OPENAI_KEY", "OPENAI_API_KEY", "APIKEY", "GITHUB_PAT",
    "AWS_SECRET_ACCESS_KEY", "API_TOKENS", "MY_CREDS", "USERPWD", "OPENAIKEY", "SLACK_WEBHOOK",
    "ENCRYPTION_KEY", "SSH_PASSPHRASE", "REDIS_AUTH", "SESSION_COOKIE", "clientSecret",
    "SMTP_PASSWD", "AZURE_CREDENTIAL", "SLURM_API_JWT", "WANDB_API_KEYS", "DB_PW", "accountKey", "PROXY_AUTHORIZATION",
)  # fmt: skip


def template(line: str) -> Way:
    """A template of one's own with a line."""
    blocks = '{% extends "packaged/slurm.sbatch.j2" %}{% block rendezvous %}' + line + "\n{% endblock %}"
    return Way(("--template-dir", "own"), HF if HF in line else WORD, "own/slurm.sbatch.j2", blocks)


TEMPLATE_LINES = {
    "value": f"export A={HF}",
    "variable": f"export DB_PASS={WORD}",
    "directive": f"#SBATCH --comment=password={WORD}",
    "comment": f"# export HF_TOKEN={WORD}",
    "header": f'curl -H "X-Api-Key: {WORD}" https://example.org',
    "login": f"wandb login {WORD}",
}


WAYS = {
    **{f"env {name}": env(name) for name in NAMES},
    **{f"env {kind}": env("SOME_VALUE", f"a {text} b", text) for kind, text in SHAPES.items()},
    **{f"env number {name}": env(name, "724519", "724519") for name in ("DB_PASS", "API_KEY", "PIN_TOKEN")},
    "env long number": env("SITE_KEY", "7245197", "7245197"),
    "env number in the word": env("SITE_KEY", "72451a", "72451a"),
    "env proxy": env("HTTPS_PROXY", URL),
    "env proxy in lower case": env("https_proxy", URL),
    "env proxy without a user": env("ALL_PROXY", f"socks5://:{WORD}@proxy:1080"),
    "env proxy without a scheme": env("http_proxy", f"me:{WORD}@proxy:3128"),
    "env database": env("DATABASE_URL", f"postgresql://me:{WORD}@db/x"),
    "env password with @ and /": env("REDIS_URL", f"redis://me:a@b/{WORD}@db/0"),
    "env password with quotes": env("REDIS_URL", f"redis://me:a'\"{WORD}@db/0"),
    "env index": env("PIP_EXTRA_INDEX_URL", f"https://{WORD}1234@example.org/simple", f"{WORD}1234"),
    "env query": env("MIRROR", f"https://example.org/x?api_key={WORD}&a=1"),
    "env signed": env("DATA_URL", f"https://x.blob.example.org/c/f?sv=2020&sig={WORD}"),
    "env headers": env("OTEL_EXPORTER_OTLP_HEADERS", f"a=b,api-key={WORD}"),
    "env connection string": env("STORAGE", f"AccountName=x;AccountKey={WORD};EndpointSuffix=x"),
    "env bearer": env("EXTRA_HEADER", f"Authorization: Bearer {WORD}"),
    "env basic": env("EXTRA_HEADER", "Basic bWU6aHVudGVyMmh1bnRlcjI=", "bWU6aHVudGVyMmh1bnRlcjI="),
    "env java": env("JAVA_OPTS", f"-Dpassword={WORD}"),
    "engine hf_token": option("engine", f"hf_token={WORD}"),
    "engine hf_token by value": option("engine", f"revision={HF}", HF),
    "engine hf_overrides": option("engine", f'hf_overrides={{"a": [{{"api_key": "{WORD}"}}]}}'),
    "engine deep value": option("engine", f'additional_config={{"a": {{"b": ["x", "{HF}"]}}}}', HF),
    "engine deep key": option("engine", f'additional_config={{"{HF}": 1}}', HF),
    "engine url": option("engine", f"download_dir=s3://me:{WORD}@store/x"),
    "engine text": option("engine", f"otlp_traces_endpoint=http://x?token={WORD}"),
    "engine camel": option("engine", f'kv_transfer_config={{"clientSecret": "{WORD}"}}'),
    "sampling": option("sampling", f'extra_args={{"key": "{HF}"}}', HF),
    "sampling by name": option("sampling", f'extra_args={{"api_key": "{WORD}"}}'),
    "stop": option("sampling", f'stop=["{OPENAI}"]', OPENAI),
    "comment": option("directive", f"--comment={HF}", HF),
    "comment url": option("directive", f"--comment={URL}"),
    "comment header": option("directive", f"--comment='Authorization: Bearer {WORD}'"),
    "export": option("directive", f"--export=ALL,DB_PASS={WORD}"),
    "mail": option("directive", f"--mail-user={HF}@x.org", HF),
    "name": option("name", HF, HF),
    "account": option("account", HF, HF),
    "account by name": option("account", f"alpha --token={WORD}"),
    "partition by name": option("partition", f"gpu,password={WORD}"),
    "qos by name": option("qos", f"HF_TOKEN={WORD}"),
    "job-dir by name": option("job-dir", f"runs/db_password={WORD}"),
    "model by name": Way((f"/models/api_key={WORD}/x",)),
    "profile account by name": site(f"account = 'alpha --token={WORD}'"),
    "partition": option("partition", HF, HF),
    "qos": option("qos", HF, HF),
    "job-dir": option("job-dir", f"runs/{HF}", HF),
    "input": option("input", f"https://me:{WORD}@example.org/rows.jsonl"),
    "input token": option("input", f"/data/{HF}/rows.jsonl", HF),
    "lora": option("lora", f"https://me:{WORD}@example.org/adapter"),
    "prompt template": option("prompt-template", f"{{{{ a }}}} {HF}", HF),
    "chat template": option("chat-template", f"{{{{ messages }}}} {HF}", HF),
    "rename": option("rename", f"a={HF}", HF),
    "time": option("time", HF, HF),
    "mem": option("mem", HF, HF),
    "profile": option("profile", HF, HF),
    "template": option("template", HF, HF),
    "extra argument": Way((HF,), HF),
    "number": option("nodes", HF, HF),
    "scheduler": option("scheduler", HF, HF),
    "unknown option": Way((f"--{HF}",), HF),
    "setup": setup(f"export HF_TOKEN={WORD}"),
    "setup by value": setup(f"echo {HF} > ~/.cache/token", HF),
    "setup header": setup(f'curl -H "Authorization: Bearer {WORD}" https://example.org'),
    "setup own header": setup(f'curl -H "X-Api-Key: {WORD}" https://example.org'),
    "setup user": setup(f"curl -u me:{WORD} https://example.org"),
    "setup url": setup(f"git clone https://me:{WORD}@example.org/x"),
    "setup login": setup(f"hf auth login --token {WORD}"),
    "setup docker": setup(f"docker login -u me -p {WORD} example.org"),
    "setup default": setup(f'export A="${{DB_PASS:-{WORD}}}"'),
    "setup append": setup(f"HF_TOKEN+={WORD}"),
    "setup here-string": setup(f"read -r HF_TOKEN <<< {WORD}"),
    "setup printf": setup(f"printf -v HF_TOKEN {WORD}"),
    "setup echo": setup(f"export HF_TOKEN=$(echo {WORD})"),
    "setup sshpass": setup(f"sshpass -p {WORD} ssh x"),
    "setup netrc": setup(f"echo machine x login me password {WORD} >> ~/.netrc"),
    "setup aws": setup(f"aws configure set aws_secret_access_key {WORD}"),
    "setup wandb": setup(f"wandb login {WORD}"),
    "setup redis": setup(f"redis-cli -a {WORD} ping"),
    "setup standard input": setup(f"echo {WORD} | docker login -u me --password-stdin"),
    "setup file": setup(f"printf %s {WORD} > ~/.cache/huggingface/token"),
    "setup attached user": setup(f"curl -ume:{WORD} https://example.org"),
    "setup psql": setup(f"psql 'host=x user=me password={WORD}'"),
    "setup json": setup(f'echo {{"password": "{WORD}"}} > x.json'),
    "profile env": site(f"env = {{ OPENAI_KEY = '{WORD}' }}"),
    "profile env by value": site(f"env = {{ A = '{URL}' }}"),
    "profile wrapper": site(f"wrapper = ['run', '--token', '{WORD}']"),
    "profile launcher": site(f"launcher_options = ['--export=DB_PASS={WORD}']"),
    "profile head": site(f"head_command = 'curl -u me:{WORD} x'"),
    "profile account": site(f"account = '{HF}'", HF),
    "profile chunk": site(f"chunk = ['system={HF}']", HF),
    "profile templates": site(f"template_dir = '{HF}'", HF),
    "job.toml env": definition(f"[env]\nDB_PASS = '{WORD}'"),
    "job.toml engine": definition(f"[engine.hf_overrides]\napi_key = '{WORD}'"),
    "job.toml overridden": definition(f"name = '{HF}'", HF)._replace(words=("--name", "x")),
    "job.toml comment": definition(f"# was {HF}\ntp = 1", HF),
    "job.toml commented": definition(f"# HF_TOKEN = \"{WORD}\"\ntp = 1"),
    "job.toml unknown key": definition(f"hf_token = '{WORD}'"),
    "job.toml wrong type": definition(f"name = ['{HF}']", HF),
    "job.toml broken": definition(f"name = '{HF}", HF),
    "model url": Way((f"https://me:{WORD}@example.org/org/model",)),
    "model token": Way((HF,), HF),
    "model path": Way((f"/models/{HF}/x",), HF),
    **{f"template {name}": template(line) for name, line in TEMPLATE_LINES.items()},
}  # fmt: skip


PLAIN_TEMPLATE = (
    "# The password: ask the administrators for it; token: see below", "# HF_TOKEN=$(cat ~/.hf) or HF_TOKEN=",
    "export HF_TOKEN=$(cat ~/.hf)", '[ -n "$HF_TOKEN" ] || echo "HF_TOKEN: not set" >&2', "#SBATCH --wckey=alpha",
    "export NCCL_NET_KEY=1 MASTER_PORT=29500", "readonly TOKENS=8192",
)  # fmt: skip


def test_plain_lines_of_a_template_are_taken(desk: Path, model: Path, run_cli: Cli) -> None:
    way = template("\n".join(PLAIN_TEMPLATE))
    (desk / "own").mkdir()
    (desk / way.file).write_text(way.text)
    done = run_cli("render", *words_of(way, "template"))
    assert done.code == 0, done.err
    assert all(line in done.out for line in PLAIN_TEMPLATE)


def test_the_line_of_the_script_is_named(desk: Path, model: Path, run_cli: Cli) -> None:
    way = template(f"export DB_PASS={WORD}")
    (desk / "own").mkdir()
    (desk / way.file).write_text(way.text)
    assert re.search(
        r"the script, from a template, in line \d+ DB_PASS=\.\.\. looks like a secret",
        run_cli("render", *words_of(way, "x")).err,
    )


def test_prompts_may_speak_of_secrets(desk: Path, model: Path, run_cli: Cli) -> None:
    (desk / "rows.jsonl").write_text('{"question": "a"}\n')
    words = ("--input", "rows.jsonl", "--prompt-template", "What does password=hunter22 mean in {{ question }}?")
    done = run_cli("render", "model", "--rehearse", "--scheduler", "slurm", *words)
    assert done.code == 0, done.err


def words_of(way: Way, name: str) -> list[str]:
    model = "definition" if way.file.startswith("definition/") else "model"
    first = [] if name.startswith("model ") else [model]
    slurm = [] if name in ("scheduler",) or "--profile" in way.words else ["--scheduler", "slurm"]
    return [*first, "--rehearse", *slurm, *way.words]


def test_there_are_many() -> None:
    assert len(WAYS) >= 80


@pytest.mark.parametrize("name", WAYS)
def test_secret_is_refused_and_nowhere(desk: Path, model: Path, run_cli: Cli, name: str) -> None:
    way = WAYS[name]
    if way.file:
        (desk / way.file).parent.mkdir(exist_ok=True)
        (desk / way.file).write_text(way.text)
    planted = {desk / way.file}
    before = {path for path in desk.rglob("*") if path.is_file()}
    for command in ("plan", "render", "submit"):
        done = run_cli(command, *words_of(way, name))
        said = done.out + done.err
        if command == "plan" and done.code == 0:
            assert way.file.startswith("own/"), "plan renders no script"
        else:
            assert done.code == 2, said
            assert len(done.err.splitlines()) == 1
        assert way.secret not in said, said
        made = [path for path in desk.rglob("*") if path.is_file() and path not in planted]
        assert not [path for path in made if way.secret.encode() in path.read_bytes()]
        assert set(made) <= before
        assert not (desk / "runs").exists()


@pytest.mark.parametrize("name", [name for name in WAYS if name.startswith(("env ", "engine hf", "setup ", "comment"))])
def test_refusal_says_what_to_do(desk: Path, model: Path, run_cli: Cli, name: str) -> None:
    way = WAYS[name]
    if way.file:
        (desk / way.file).write_text(way.text)
    said = run_cli("render", *words_of(way, name)).err
    assert "looks like a secret" in said
    assert ("export in your shell" if name.startswith("engine") else "export it in your shell") in said


WRITTEN = "looks like a secret, and would be written into the job folder"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--env", f"A={HF}"), f"--env A has hf_…, which {WRITTEN}: export it in your shell instead"),
        (("--account", HF), f"--account has hf_…, which {WRITTEN}: leave it out\n"),
        (("--qos", f"HF_TOKEN={WORD}"), f"--qos HF_TOKEN=... {WRITTEN}: leave it out\n"),
        (("--engine", f"revision={HF}"), f"--engine revision has hf_…, which {WRITTEN}: leave it out; what the engine"),
        (("--engine", f'hf_overrides={{"a": ["{HF}"]}}'), f"--engine hf_overrides has hf_…, which {WRITTEN}: leave it"),
    ],
    ids=["env", "account", "qos", "engine", "overrides"],
)  # fmt: skip
def test_refusal_names_the_key_and_fits_the_option(
    desk: Path, model: Path, run_cli: Cli, words: tuple[str, ...], said: str
) -> None:
    assert f"Error: {said}" in run_cli("plan", "model", "--rehearse", *words).err


# What looks a little like a secret, and is none.
PLAIN = (
    "meta-llama/Llama-3.1-8B-Instruct", "/sk-learn/models/a", "sk-learn-intelex-2024-1", "hf_index.jsonl",
    "/data/hf_models_cache/x", "hf://org/name", "docker://image:tag@sha256:abc", "docker://org/image:tag@sha256:0f",
    "http://proxy:3128", "https://me@host/x", "https://host:8443/path@v1", "ssh://git@host/x", "s3://bucket/a",
    "Basic information and bearer bonds", "Bearer of bad news", "QmFzZTY0IGlkcyBsaWtlIHRoaXMgb25l",
    "dGhpcyBpcyBhIGlk/abc+def==", "Token: {{ token }}", "https://huggingface.co/org/name?library=vllm",
    "12345678-1234-1234-1234-123456789012", "a" * 64, "gpt-oss-120b", "npm_config_cache", "pypi-mirror-of-the-site",
    "max_tokens=5, stop_token_ids=[1]", "a:b@c", "eyJ is how base64 of JSON begins", "git@example.org:a/b.git",
)  # fmt: skip


LINES = (
    "module load cuda/12.1", 'eval "$(conda shell.bash hook)"', "export HF_HOME=/scratch/$USER/hf",
    "export NCCL_IB_HCA=mlx5_0:1,mlx5_1:1", "export HF_TOKEN=$(<~/.hf)", 'export HF_TOKEN="$(< ~/.hf)"',
    """[ -n "$HF_TOKEN" ] || echo 'HF_TOKEN is not set' >&2""", "test -f ~/.hf && export HF_TOKEN=$(cat ~/.hf)",
    "export SLURM_JWT=$(scontrol token | cut -d= -f2)", 'echo "token: ok"', "conda activate bearer env",
    "ssh -p 22 me@host:dir", "docker run -u 1000:1000 x", "login=me; echo $login", "mkdir -p /x/tokens",
    "export SSL_CERT_FILE=/etc/ssl/cert.pem", "export HF_TOKEN_PATH=$HOME/.hf", "echo starting > log.txt",
    'echo "$HF_TOKEN" > ~/.cache/huggingface/token', "export KEY=x", "curl -u me:$PASSWORD https://example.org",
)  # fmt: skip


@pytest.mark.parametrize("line", LINES)
def test_plain_line_of_set_up_is_taken(line: str) -> None:
    check_shell_lines((line,), "setup")


@pytest.mark.parametrize("text", PLAIN)
def test_plain_text_is_no_secret(text: str) -> None:
    assert shown_secret(text) is None
    assert redact(text) == text


def test_plain_options_are_taken(desk: Path, model: Path, run_cli: Cli) -> None:
    """Variables, arguments and lines in which names of secrets have another meaning."""
    (desk / "vllm-hpc.toml").write_text(
        "[profiles.site]\nscheduler = 'slurm'\nsetup = ['export HF_TOKEN=$(cat ~/.hf)', 'unset HF_TOKEN API_KEY',"
        "'curl -H \"Authorization: Bearer $HF_TOKEN\" https://x', 'export HF_TOKEN_PATH=/home/me/.hf',"
        "'[ -n \"${HF_TOKEN:+x}\" ] || echo none', 'export PIP_INDEX_URL=https://me:$(cat ~/.pip)@example.org/simple',"
        "'docker run -u 1000:1000 image']\n"
    )
    overrides = {"image_token_index": 5, "bos_token": "<s>", "tokens_per_second": 2, "num_key_value_heads": 8}
    variables = (
        "HF_HUB_DISABLE_IMPLICIT_TOKEN=1", "TOKENIZERS_PARALLELISM=false", "PASSES=3", "SSL_KEY=/etc/ssl/a.key",
        "GOOGLE_APPLICATION_CREDENTIALS=/home/me/a.json", "BYPASS=x", "NO_PROXY=localhost,a:b", "CACHE_KEY=x",
        "https_proxy=http://proxy:3128", "PGPASSFILE=/home/me/.pgpass", "TOKEN_LIMIT=5", "PUBLIC_KEY=abc",
        "NUM_KEYS=3", "SEED_KEY=12", "PASS=2", "SORT_BY_KEY=123456",
    )  # fmt: skip
    done = run_cli(
        "submit", "model", "--profile", "site", "--name", "run",
        *(word for pair in variables for word in ("--env", pair)),
        *("--engine", f"hf_overrides={json.dumps(overrides)}", "--engine", "hf_token=true"),
        *("--sampling", 'structured_outputs={"regex": "token=[a-z]+"}', "--sampling", 'stop=["password: "]'),
        *("--sampling", "stop_token_ids=[5]", "--directive", "--wckey=alpha"),
    )  # fmt: skip
    assert done.code == 0, done.err


def test_exported_secrets_stay_out_of_the_folder(
    desk: Path, model: Path, run_cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", HF)
    monkeypatch.setenv("https_proxy", URL)
    done = run_cli("submit", "model", "--scheduler", "slurm", "--name", "run", "--json")
    assert done.code == 0
    files = [path.read_bytes().decode() for path in (desk / "runs").rglob("*") if path.is_file()]
    assert len(files) > 3
    assert not [text for text in [done.out, done.err, *files] if HF in text or WORD in text]


def test_file_for_the_tasks_of_pbs_has_no_secret() -> None:
    text = to_shell({"https_proxy": URL, "OPENAI_KEY": WORD, "A": f"x {HF}", "B": "plain"}, [])
    assert text == "export B=plain\n"


def test_errors_are_redacted_wherever_they_are_made() -> None:
    said = str(RequestError(f"sbatch said: {URL} and HF_TOKEN='{WORD}' and {HF}"))
    assert said == "sbatch said: http://…@proxy.example.org:3128 and HF_TOKEN=… and hf_…"
    assert redact(said) == said


LONG = {
    "urls": "://a:" * 30_000,
    "headers of JWTs": "-eyJ" * 30_000,
    "JWTs": "eyJa.eyJ" * 15_000,
    "keys": "sk-a_" * 30_000,
    "queries": "?a=" * 30_000,
    "PEM": "-----BEGIN PRIVATE KEY " * 3_000,
    "Basic": "Basic aaaaaaaa" * 9_000,
    "logins": "login a " * 15_000,
}


@pytest.mark.parametrize("name", LONG)
def test_long_text_takes_no_time(name: str) -> None:
    """No input makes a search quadratic: this would take minutes, and the test's time limit ends it."""
    redact(LONG[name])
    with pytest.raises(RequestError, match="newline"):  # refused for something else, after it was looked at
        check_words((f"{LONG[name]}\n",), "x")
