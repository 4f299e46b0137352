"""Files, settings and caches of an attacker: each is refused by name, or shown without doing anything."""

from __future__ import annotations

import contextlib
import gzip
import http.server
import json
import math
import os
import pickle
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import pair_rows
from kilter import hashes, recipe, validation
from kilter import manifest as manifests
from kilter.data import read
from kilter.data.row import RowError
from kilter.errors import RunFailed, UserError
from kilter.models import fingerprint, load, proof
from kilter.models.reference import ReferenceCache
from kilter.models.tokenizer import load_tokenizer
from kilter.redaction import redact, redacted
from kilter.release import gate
from kilter.training import checkpoint, state_file
from kilter.types import Completion, Prompt
from test_chain import kilter


class Pwn:
    """Whoever unpickles it makes a folder."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path) -> Path:
    return tmp_path / "pwned"


def test_the_attack_itself_works(mark):
    pickle.loads(pickle.dumps(Pwn(mark)))
    assert mark.exists()


@pytest.mark.parametrize("name", ["state.safetensors", "state.pt"])
@pytest.mark.parametrize("how", ["bare pickle", "in a dictionary", "as a tensor's key", "old format"])
def test_code_in_a_checkpoint_is_refused(mark, tmp_path, how, name):
    path = tmp_path / "run" / "checkpoints" / "step-1" / name
    path.parent.mkdir(parents=True)
    if how == "bare pickle":
        path.write_bytes(pickle.dumps(Pwn(mark)))
    else:
        value = {Pwn(mark): torch.ones(1)} if how == "as a tensor's key" else {"learner": [Pwn(mark)]}
        torch.save(value, path, _use_new_zipfile_serialization=how != "old format")
    said = {
        "state.safetensors": r"state\.safetensors' cannot be read as tensors",
        "state.pt": r"holds checkpoints/step-1/state\.pt, written by an older Kilter: this version does not",
    }
    with pytest.raises(UserError, match=said[name]):
        checkpoint.read_state(path.parent)
    # The best weights so far are read by the same door.
    with pytest.raises(UserError, match="cannot be read as tensors"):
        state_file.read_values(path)
    assert not mark.exists()


def sealed_again(folder: Path) -> None:
    """The attacker knows how a checkpoint is sealed."""
    body = json.loads((folder / "meta.json").read_text())
    for name in body["meta"]["files"]:
        body["meta"]["files"][name] = list(checkpoint.Seal().over(folder / name))
    body["check"] = checkpoint._check(body["meta"])
    (folder / "meta.json").write_text(json.dumps(body))


def test_code_in_a_sealed_checkpoint_does_not_run_on_resumption(mark, tmp_path, tiny, monkeypatch, capsys):
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in pair_rows(16)))
    out = tmp_path / "run"
    train = ("train", "--method", "dpo", "--model", tiny, "--data", tmp_path / "pairs.jsonl", "--out", out)
    train += ("--max-steps", "3", "--batch-size", "2", "--max-length", "64", "--save-every", "1")
    original = checkpoint.Checkpoints.save

    def killed(self, step, *rest, **options):
        original(self, step, *rest, **options)
        raise RunFailed("Killed", "resume")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Checkpoints, "save", killed)
        assert kilter(monkeypatch, capsys, *train)[0] == 4
    (found,) = out.glob("checkpoints/step-*")
    torch.save({"learner": Pwn(mark)}, found / "state.safetensors")
    sealed_again(found)
    code, said = kilter(monkeypatch, capsys, *train)
    assert (code, "cannot be read as tensors" in said) == (2, True), said
    # Nor is it run under the name that an older Kilter gave it.
    (found / "state.safetensors").rename(found / "state.pt")
    body = json.loads((found / "meta.json").read_text())
    body["meta"]["files"]["state.pt"] = body["meta"]["files"].pop("state.safetensors")
    (found / "meta.json").write_text(json.dumps(body))
    sealed_again(found)
    code, said = kilter(monkeypatch, capsys, *train)
    assert (code, "state.pt, written by an older Kilter" in " ".join(said.split())) == (2, True), said
    assert not mark.exists()


@pytest.mark.parametrize("name", ["pytorch_model.bin", "adapter_model.bin"])
def test_code_in_weights_is_refused(mark, tmp_path, tiny, name):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    if name.startswith("adapter"):
        folder = tmp_path / "adapter"
        folder.mkdir()
        settings = {"peft_type": "LORA", "r": 2, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM"}
        settings |= {"base_model_name_or_path": str(tiny)}
        (folder / "adapter_config.json").write_text(json.dumps(settings))
    else:
        (folder / "model.safetensors").unlink()
    torch.save({"x": Pwn(mark)}, folder / name)
    with pytest.raises(UserError, match="cannot be loaded"):
        load.load_causal(folder)
    assert not mark.exists()


CODE = """import os
os.mkdir({mark!r})
from transformers import LlamaConfig, LlamaForCausalLM
class C(LlamaConfig):
    model_type = "unheard"
class M(LlamaForCausalLM):
    config_class = C
"""


@pytest.mark.parametrize("file", ["config.json", "tokenizer_config.json"])
def test_a_models_own_code_is_refused_with_the_flag(mark, tmp_path, tiny, file, monkeypatch, capsys):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    (folder / "evil.py").write_text(CODE.format(mark=str(mark)))
    held = json.loads((folder / file).read_text())
    names = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}
    if file == "tokenizer_config.json":
        names, held["tokenizer_class"] = {"AutoTokenizer": ["evil.C", None]}, "Unheard"
    else:
        held["model_type"] = "unheard"
    (folder / file).write_text(json.dumps(held | {"auto_map": names}))
    # Nobody is asked on the terminal.
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("somebody was asked"))
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(r) + "\n" for r in pair_rows(8)))
    train = ("train", "--method", "dpo", "--model", folder, "--data", tmp_path / "p.jsonl")
    train += ("--max-steps", "1", "--out", tmp_path / "out")
    code, said = kilter(monkeypatch, capsys, *train)
    assert code == 2, said
    assert "needs Python code of its own" in said
    assert "--trust-remote-code" in said
    assert not mark.exists()


def test_a_models_own_code_runs_if_asked_and_is_hashed(mark, tmp_path, tiny, monkeypatch):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    (folder / "evil.py").write_text(CODE.format(mark=str(mark)))
    held = json.loads((folder / "config.json").read_text())
    names = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}
    (folder / "config.json").write_text(json.dumps(held | {"auto_map": names, "model_type": "unheard"}))
    before = fingerprint.numbers_hash(folder)
    monkeypatch.setenv("KILTER_TRUST_REMOTE_CODE", "1")
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    load.load_causal(folder)
    assert mark.exists()
    (folder / "evil.py").write_text("# another\n")
    assert fingerprint.numbers_hash(folder) != before


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ messages.__init__.__globals__ }}",
    "{{ raise_exception.__globals__['__builtins__']['open']('/etc/passwd').read() }}",
    "{% for m in messages.append(1) or [] %}{% endfor %}{{ messages.clear() }}",
    "{{ lipsum.__globals__.os.popen('id').read() }}{{ cycler.__init__.__globals__ }}",
]


@pytest.mark.parametrize("template", ESCAPES)
def test_a_chat_template_cannot_leave_its_sandbox(template, tiny):
    from kilter.data.encode import Encoder  # noqa: F401

    tokenizer = load_tokenizer(tiny)
    tokenizer.chat_template = template
    with pytest.raises(Exception, match="(?i)unsafe|undefined|not allowed|has no attribute"):
        tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False)


LAUGHS = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join([f'*{chr(97 + i)}'] * 10)}]\n" for i in range(9)
)


@pytest.mark.parametrize(
    "text",
    [
        LAUGHS,
        "a: &a [*a]",
        "[" * 5000,
        "!!python/object/apply:os.system ['true']",
        "!!python/name:os.system",
        "a: " + "1" * 5000,
        "x" * (validation.LONGEST + 1),
    ],
    ids=["laughs", "itself", "deep", "apply", "name", "digits", "long"],
)
def test_yaml_is_plain_and_bounded(text):
    with pytest.raises(yaml.YAMLError):
        validation.load_yaml(text)


def test_a_packed_bomb_is_not_unpacked(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "PACKED", 1 << 20)
    for name, begin in (("a.jsonl.gz", b""), ("b.json.gz", b"["), ("c.csv.gz", b"prompt,chosen\n")):
        path = tmp_path / name
        with gzip.open(path, "wb") as file:
            file.write(begin + b" " * (1 << 24))
        assert path.stat().st_size < 1 << 15
        with pytest.raises(UserError, match=f"{name}' takes more than 200 times its size"):
            list(read.rows(str(path)))
    # What is merely packed well is read.
    path = tmp_path / "fine.jsonl.gz"
    with gzip.open(path, "wt") as file:
        file.writelines(json.dumps({"prompt": "a", "chosen": "b" * 50}) + "\n" for _ in range(30_000))
    monkeypatch.setattr(read, "RATIO", 1000)
    assert sum(1 for _ in read.rows(str(path))) == 30_000


def test_a_parquet_bomb_is_refused_by_its_footer(tmp_path, monkeypatch):
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setattr(read, "PACKED", 1 << 20)
    path = tmp_path / "bomb.parquet"
    rows = [{"prompt": "a", "chosen": " " * (1 << 19) + str(i)} for i in range(32)]
    pq.write_table(pa.Table.from_pylist(rows), path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 1 << 15
    with monkeypatch.context() as patch:
        patch.setattr(pq.ParquetFile, "iter_batches", lambda *_, **__: pytest.fail("it was unpacked"))
        with pytest.raises(UserError, match=r"bomb\.parquet' takes more than 200 times its size"):
            list(read.rows(str(path)))
    # What is merely packed well is read.
    monkeypatch.setattr(read, "RATIO", 1 << 20)
    assert [row["chosen"][-2:].strip() for _, row in read.rows(str(path))] == [str(i) for i in range(32)]


def test_a_text_that_many_rows_share_does_not_fill_the_memory(tmp_path, monkeypatch):
    """It stands in the file once, and would stand in a batch once per row."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = tmp_path / "shared.parquet"
    rows = [{"prompt": str(i), "chosen": "x" * 100_000} for i in range(3000)]
    pq.write_table(pa.Table.from_pylist(rows), path)
    assert path.stat().st_size < 1 << 17
    monkeypatch.setattr(read, "AT_ONCE", 1 << 22)
    original, sizes = pq.ParquetFile.iter_batches, []

    def batches(self, batch_size):
        for batch in original(self, batch_size=batch_size):
            sizes.append(batch.nbytes)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", batches)
    assert sum(len(row["chosen"]) for _, row in read.rows(str(path))) == 3000 * 100_000
    assert max(sizes) <= 1 << 22


BOMBS = """
import resource, sys
import numpy as np, pyarrow as pa, pyarrow.parquet as pq
from kilter.data import read
from kilter.errors import UserError

def arrow(path, table, packed=None, new=pa.ipc.new_file):
    with new(path, table.schema, options=pa.ipc.IpcWriteOptions(compression=packed)) as out:
        out.write_table(table)

# One text of a megabyte, which the list of one row names 300,000 times: 300 GB.
named = pa.DictionaryArray.from_arrays(pa.array(np.zeros(300_000, np.int32)), pa.array(["x" * 1_000_000]))
ends = pa.array([0, 300_000], pa.int32())
lists = pa.table({"prompt": ["a"], "chosen": pa.ListArray.from_arrays(ends, named)})
pq.write_table(lists, "lists.parquet")
arrow("lists.arrow", lists)
nested = pa.StructArray.from_arrays([pa.ListArray.from_arrays(ends, named)], ["k"])
pq.write_table(pa.table({"prompt": ["a"], "chosen": nested}), "nested.parquet")
ree = pa.RunEndEncodedArray.from_arrays(pa.array([300_000], pa.int32()), pa.array(["x" * 1_000_000]))
arrow("run-ends.arrow", pa.table({"prompt": pa.ListArray.from_arrays(ends, ree)}), new=pa.ipc.new_stream)
packed = pa.table({"prompt": [" " * (1 << 29)]})
arrow("packed.arrow", packed, "zstd")
arrow("packed-stream.arrow", packed, "zstd", pa.ipc.new_stream)
del packed
prefixes = pa.table({"chosen": [["x" * 200_000 + str(i) for i in range(800)]]})
pq.write_table(prefixes, "prefixes.parquet", use_dictionary=False, column_encoding="DELTA_BYTE_ARRAY")
del prefixes

# What follows may take another gigabyte of addresses, and no more.
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + (1 << 30),) * 2)
read.AT_ONCE = 1 << 27
for name in sys.argv[1:]:
    try:
        print(name, "was read", sum(1 for _ in read.rows(name)))
    except UserError as error:
        print(name, error.problem)
"""


def test_columns_that_come_to_more_than_the_memory_are_refused(tmp_path):
    """Each is small in its file; a limit on the process's memory says that none was made."""
    expected = {
        "lists.parquet": "holds a row of more than",
        "nested.parquet": "holds a row of more than",
        "lists.arrow": "holds a row of more than",
        "run-ends.arrow": "holds a row of more than",
        "packed.arrow": "takes more than 200 times its size",
        "packed-stream.arrow": "takes more than 200 times its size",
        "prefixes.parquet": "whose texts may come to more than",
    }
    command = [sys.executable, "-c", BOMBS, *expected]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    said = dict(line.split(" ", 1) for line in found.stdout.splitlines())
    assert set(said) == set(expected)
    for name, problem in expected.items():
        assert problem in said[name], said


LEAF = st.none() | st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=6)
NESTED = st.lists(
    st.fixed_dictionaries(
        {
            "text": LEAF,
            "lists": st.none() | st.lists(st.lists(LEAF, max_size=3), max_size=3),
            "turns": st.lists(st.fixed_dictionaries({"role": LEAF, "n": st.none() | st.just(3)}), max_size=3),
        }
    ),
    min_size=1,
    max_size=6,
)


def characters(value) -> int:
    if isinstance(value, str):
        return len(value.encode())
    if isinstance(value, dict | list):
        return sum(map(characters, value.values() if isinstance(value, dict) else value))
    return 0


@settings(max_examples=60, deadline=None)
@given(rows=NESTED, packed=st.sampled_from([None, "zstd", "lz4"]), stream=st.booleans(), coded=st.booleans())
def test_rows_of_columns_are_measured_before_they_are_made(tmp_path_factory, rows, packed, stream, coded):
    """Whatever is nested in what, packed or not, a row is never larger than it was said to be."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from kilter.data.columns import row_sizes

    turns = pa.list_(pa.struct({"role": pa.string(), "n": pa.int32()}))
    kinds = {"text": pa.string(), "lists": pa.list_(pa.list_(pa.string())), "turns": turns}
    table = pa.Table.from_pylist(rows, pa.schema(kinds))
    folder = tmp_path_factory.mktemp("columns")
    pq.write_table(table, folder / "a.parquet", use_dictionary=coded)
    options = pa.ipc.IpcWriteOptions(compression=packed)
    with (pa.ipc.new_stream if stream else pa.ipc.new_file)(
        folder / "a.arrow", table.schema, options=options
    ) as out:
        out.write_table(table)
    for name in ("a.parquet", "a.arrow"):
        assert [row for _, row in read.rows(str(folder / name))] == rows
    if coded:
        texts = table["text"].dictionary_encode()
        table = table.set_column(0, "text", texts)
    for batch in table.slice(len(rows) // 2).to_batches():
        for row, size in zip(batch.to_pylist(), row_sizes(batch), strict=True):
            assert characters(row) <= size <= characters(row) + 60


@pytest.mark.parametrize("at", range(0, 400, 9))
def test_a_damaged_arrow_file_is_refused_and_harms_nobody(tmp_path, at):
    import pyarrow as pa

    path = tmp_path / "a.arrow"
    table = pa.table({"prompt": ["a", "b"], "chosen": [["x"], ["y", "z"]]})
    with pa.ipc.new_stream(path, table.schema) as out:
        out.write_table(table)
    data = bytearray(path.read_bytes())
    data[at % len(data)] ^= 0xFF
    path.write_bytes(data)
    # A byte of a text gives another text; any other byte gives a refusal, and never a crash.
    with contextlib.suppress(UserError):
        list(read.rows(str(path)))


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.json"])
def test_a_row_or_an_array_without_end_is_refused(tmp_path, monkeypatch, name):
    monkeypatch.setattr(read, "LONGEST_ROW", 1000)
    monkeypatch.setattr(read, "LARGEST_ARRAY", 1000)
    path = tmp_path / name
    path.write_text(("[" if name == "a.json" else "") + '{"prompt": "' + "x" * 5000 + '"}')
    with pytest.raises(UserError, match="more than 1,000 characters"):
        list(read.rows(str(path)))


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, '{"a": ' + "9" * 5000 + "}"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_json_that_no_parser_likes_is_named(tmp_path, text, name):
    path = tmp_path / name
    path.write_text(text + "\n")
    try:
        found = [row for _, row in read.rows(str(path)) if isinstance(row, RowError)]
    except UserError as error:
        found = [error]
    assert found


def test_a_schema_fetches_nothing():
    from kilter.feedback.verifiers import JsonSchema

    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"{}")

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/s.json"
    try:
        for schema in (
            {"$ref": url},
            {"properties": {"a": {"$ref": url}}},
            {"allOf": [{"$dynamicRef": url}]},
            {"$id": url, "properties": {"a": {"$ref": "other.json"}}},
            {"$ref": "file:///etc/passwd"},
        ):
            with pytest.raises(UserError, match="none is fetched"):
                JsonSchema(schema)
        # A reference where no schema stands is not looked at before, and not fetched later.
        hidden = JsonSchema({"x-own": {"$ref": url}, "$ref": "#/x-own"})
        with pytest.raises(Exception, match=r"s\.json"):
            hidden.judge(Prompt(text="p"), Completion("{}"))
        inner = JsonSchema({"$ref": "#/$defs/a", "$defs": {"a": {"type": "object"}}})
        assert inner.judge(Prompt(text="p"), Completion("{}"))[0] == 1
        assert inner.judge(Prompt(text="p"), Completion("[]"))[0] == 0.5
    finally:
        server.shutdown()
        server.server_close()
    assert asked == []


SECRETS = [
    "http://me:hunter2hunter2@host/v1",
    "https://host/v1?api_key=hunter2hunter2&x=1",
    "https://host/v1?x=1&access_token=hunter2hunter2",
    "Authorization: Bearer hunter2hunter2",
    "failed for http://u:hunter2@hunter2@host:80/a?b",
    "sk-hunter2hunter2hunter2",
    "hf_hunter2hunter2hunter2",
]


@pytest.mark.parametrize("text", SECRETS)
def test_secrets_are_taken_out_of_texts(text):
    assert "hunter2" not in redact(text)
    assert redact(redact(text)) == redact(text)
    assert (
        redact("http://host:80/v1?n=1, a@b.c, max_tokens=5") == "http://host:80/v1?n=1, a@b.c, max_tokens=5"
    )


def test_secrets_are_taken_out_of_settings(monkeypatch):
    monkeypatch.setenv("OTHER_API_KEY", "correct horse")
    value = {
        "api_key": "x",
        "hf_token": "y",
        "max_tokens": 5,
        "pad_token": "<pad>",
        "a": ["the correct horse"],
    }
    assert redacted(value) == {
        "api_key": "***",
        "hf_token": "***",
        "max_tokens": 5,
        "pad_token": "<pad>",
        "a": ["the ***"],
    }


def test_credentials_reach_no_file_of_a_run_and_no_line(tmp_path, tiny, monkeypatch, capsys):
    """The address of a sampler, in the recipe and on the command line; nobody answers there."""
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(r) + "\n" for r in pair_rows(8)))
    sampler = {"name": "openai", "model": "m", "url": "http://me:hunter2@127.0.0.1:9/v1?key=hunter2"}
    raw = {
        "model": str(tiny),
        "data": {"path": str(tmp_path / "pairs.jsonl"), "heldout": 0.5},
        "stages": {"a": {"generate": {"sampler": sampler | {"retries": 0}, "k": 1, "limit": 1}}},
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(raw))
    runs = tmp_path / "runs"
    code, said = kilter(monkeypatch, capsys, "run", tmp_path / "r.yaml", "--runs", runs)
    assert code == 4, said
    assert "hunter2" not in said
    written = [p for p in runs.rglob("*") if p.is_file()]
    assert any(p.name == "manifest.json" for p in written)
    assert [p for p in written if b"hunter2" in p.read_bytes()] == []
    # A password that was changed is no other run.
    config = {"sampler": {"url": "http://me:one@h"}}
    keys = {manifests.new("a", "b", {"sampler": {"url": f"http://me:{p}@h"}}, {}).key for p in ("one", "two")}
    assert len(keys) == 1
    assert "one" not in json.dumps(manifests.new("a", "b", config, {}).config)
    code, said = kilter(
        monkeypatch, capsys, "run", tmp_path / "r.yaml", "--dry-run", "--resolved", "--runs", runs
    )
    assert "hunter2" not in said


def test_a_proof_that_another_user_could_have_written_is_not_believed(tmp_path):
    path = tmp_path / "proof.json"
    finding = proof.Finding(proof.Way("own"), 0.0, "")
    proof.keep(path, finding)
    assert proof.recall(path) == finding
    text = path.read_text()
    path.write_text(text.replace('"own"', '"rows"'))
    assert proof.recall(path) is None  # another content
    path.write_text(text)
    assert proof.recall(path) == finding
    shutil.copy(path, tmp_path / "other.json")
    assert proof.recall(tmp_path / "other.json") is None  # the proof of another model
    path.chmod(0o666)
    assert proof.recall(path) is None  # anybody can write it
    path.chmod(0o644)
    if os.getuid() == 0:
        os.chown(path, 12345, 12345)
        assert proof.recall(path) is None  # somebody else wrote it


def test_reference_logps_of_another_user_are_not_believed(tmp_path):
    path = tmp_path / "reference.sqlite"
    ReferenceCache(path, "hash", "float32").close()
    ReferenceCache(path, "hash", "float32").close()
    path.chmod(0o666)
    with pytest.raises(UserError, match="can be written by another user"):
        ReferenceCache(path, "hash", "float32")


def test_a_remembered_hash_is_not_anybodys(tmp_path, monkeypatch):
    monkeypatch.setenv("KILTER_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "big"
    path.write_bytes(b"x" * (hashes.BIG + 1))
    true = hashes.file_hash(path)
    (note,) = (tmp_path / "cache" / "hashes").iterdir()
    note.write_text("0" * 64)
    assert hashes.file_hash(path) == true
    # An edit that keeps size and time is seen all the same.
    times = path.stat()
    path.write_bytes(b"y" + b"x" * hashes.BIG)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert hashes.file_hash(path) != true


def test_a_converted_model_that_was_replaced_is_not_believed(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"weights")
    assert not hashes.sealed(folder)
    hashes.seal(folder)
    assert hashes.sealed(folder)
    (folder / "model.safetensors").write_bytes(b"others!")
    assert not hashes.sealed(folder)
    (folder / "model.safetensors").write_bytes(b"weights")
    assert hashes.sealed(folder)
    (folder / "adapter_config.json").write_text("{}")
    assert not hashes.sealed(folder)


@pytest.mark.parametrize(
    "where", ["../outside.safetensors", "/etc/x.safetensors", "below/x.safetensors", "..", ""]
)
def test_an_index_of_weights_leads_to_no_other_folder(tmp_path, tiny, where):
    """A file elsewhere would be loaded, and be part of no hash."""
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": {"model.embed_tokens.weight": where}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match="lies in another folder"):
        load.load_causal(folder)


@pytest.mark.parametrize(
    "said", [["a"], None, 3, "a", {"x": None}, {"x": 1}, {"x": {"y": "z"}}, {"x": ["a"]}]
)
def test_an_index_that_names_no_files_is_refused(tmp_path, tiny, said):
    folder = tmp_path / "model"
    shutil.copytree(tiny, folder)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": said}))
    with pytest.raises(UserError, match="has no weight_map from tensors to files"):
        load.load_causal(folder)


@pytest.mark.parametrize("name", ["../x", "/tmp/x", "a/b", "..", ".hidden", "a\x00b", "a\nb"])
def test_no_name_of_a_recipe_is_a_path(tmp_path, tiny, name):
    (tmp_path / "p.jsonl").write_text("".join(json.dumps(r) + "\n" for r in pair_rows(8)))
    raw = {"model": str(tiny), "data": {"path": str(tmp_path / "p.jsonl")}, "stages": {"a": {"audit": {}}}}
    with pytest.raises(UserError):
        recipe.build(raw | {"name": name})
    with pytest.raises(UserError):
        recipe.build(raw | {"stages": {name: {"audit": {}}}})


def test_a_workers_answer_is_plain_data(mark):
    """Code that a reward function ran may speak for its process: it reaches that process alone."""
    from kilter.feedback.isolation import limited

    value, problem = limited(Pwn, mark, timeout=60, prepare=dict)
    assert value is None
    assert "is not plain data" in problem
    assert not mark.exists()


def test_the_gates_xml_can_be_read_whatever_the_names(tmp_path):
    from xml.etree import ElementTree

    from kilter.release.gate import junit

    hostile = "\x1b[31m<x>&\x00\x07\"'"
    row = {"condition": hostile, "state": "fail", "why": hostile}
    text = junit({"policy": hostile, "candidate": hostile, "conditions": [row]})
    (case,) = ElementTree.fromstring(text)
    assert case.attrib["classname"] == "\\x1b[31m<x>&\\x00\\x07\"'"


@pytest.mark.parametrize("key", ["n_prompts", "data_hash", "models"])
def test_an_evaluation_without_what_the_gate_needs_is_refused(tmp_path, key):
    from kilter.release.gate import read as read_evaluation

    whole = {
        "baseline": "a",
        "n_prompts": 1,
        "data_hash": "x",
        "models": {},
        "prompts_found_in_training_data": 0,
    }
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(whole))
    assert read_evaluation(path) == whole
    path.write_text(json.dumps({k: v for k, v in whole.items() if k != key}))
    with pytest.raises(UserError, match="is not an evaluation"):
        read_evaluation(path)


@pytest.mark.parametrize("of", ["metrics", "difference"])
@pytest.mark.parametrize("field", ["value", "ci_low", "ci_high", "n", "n_unscored", "n_clusters", "fewest"])
@pytest.mark.parametrize("found", [math.nan, math.inf, "0.9", True, [], {}, -1e9])
def test_a_gate_reads_numbers_alone(tmp_path, of, field, found):
    """NaN, infinity, text and lists are no measurement, wherever they stand."""
    estimate = {"value": 0.5, "n": 40, "n_unscored": 0, "n_clusters": 40, "ci_low": 0.4, "ci_high": 0.6}
    estimate |= {"method": "Wilson", "fewest": 10}
    model = {"path": "m", "model_hash": "h", "metrics": {"gold": estimate}, "difference": {"gold": estimate}}
    whole = {"baseline": "a", "n_prompts": 40, "data_hash": "d", "models": {"a": model, "b": model}}
    path = tmp_path / "evaluation.json"
    path.write_text(json.dumps(whole))
    gate.read(path)
    # A whole negative number may be a value, and a bound on the right side of the other one.
    if found == -1e9 and field in ("value", "ci_low"):
        return
    broken = model | {of: {"gold": estimate | {field: found}}}
    path.write_text(json.dumps(whole | {"models": {"a": model, "b": broken}}))
    with pytest.raises(UserError, match=rf"{of}\.gold"):
        gate.read(path)


@pytest.mark.parametrize("count", [-1, "0", 0.0, False, [], {}])
def test_a_count_of_leaks_that_is_no_count_is_refused(tmp_path, count):
    from kilter.release.gate import read as read_evaluation

    whole = {"baseline": "a", "n_prompts": 1, "data_hash": "x", "models": {}}
    (tmp_path / "evaluation.json").write_text(json.dumps(whole | {"prompts_found_in_training_data": count}))
    with pytest.raises(UserError, match="is not an evaluation"):
        read_evaluation(tmp_path / "evaluation.json")
