"""GGUF: block formats against ggml's own definition, whole files, and damaged ones."""

import struct

import numpy as np
import pytest

from models import families, interop
from models.interop import gguf, quants, rename
from models.interop.names import GGUF
from models.options import Options
from scripts import sample
from tests.models.test_interop import parameters

SMALL = dict(vocab=40, context=16, layers=2, width=64, heads=4, kv_heads=2, ff=96)


def half(block, at):
    return float(np.frombuffer(block[at : at + 2].tobytes(), "<f2")[0])


def by_hand(name, block):
    """One block, weight by weight, as ggml-quants.c's dequantize_row_* write it."""
    b = [int(x) for x in block]
    sign = lambda x: x - 256 if x > 127 else x  # noqa: E731
    out = [0.0] * (32 if name[-1] != "K" else 256)
    if name in ("Q4_0", "Q4_1", "Q5_0", "Q5_1"):
        five, least = name[1] == "5", name[-1] == "1"
        at = 4 if least else 2
        high = int.from_bytes(bytes(b[at : at + 4]), "little") if five else 0
        start = at + 4 * five
        for j in range(16):
            low = (b[start + j] & 15) | ((high >> j) & 1) << 4
            top = (b[start + j] >> 4) | ((high >> (j + 16)) & 1) << 4
            shift = 0 if least else (16 if five else 8)
            add = half(block, 2) if least else 0.0
            out[j] = (low - shift) * half(block, 0) + add
            out[j + 16] = (top - shift) * half(block, 0) + add
    elif name == "Q8_0":
        out = [sign(x) * half(block, 0) for x in b[2:]]
    elif name in ("Q4_K", "Q5_K"):
        q, d, m = b[4:16], half(block, 0), half(block, 2)
        start = 16 if name == "Q4_K" else 48
        for j in range(8):
            if j < 4:
                scale, least = q[j] & 63, q[j + 4] & 63
            else:
                scale = (q[j + 4] & 15) | (q[j - 4] >> 6) << 4
                least = (q[j + 4] >> 4) | (q[j] >> 6) << 4
            for i in range(32):
                byte = b[start + 32 * (j // 2) + i]
                value = byte >> 4 if j % 2 else byte & 15
                if name == "Q5_K":
                    value += 16 * ((b[16 + i] >> j) & 1)
                out[32 * j + i] = d * scale * value - m * least
    else:
        d = half(block, 208)
        for n in range(2):
            low, high, scale = b[64 * n :], b[128 + 32 * n :], b[192 + 8 * n :]
            for i in range(32):
                parts = (low[i] & 15, low[i + 32] & 15, low[i] >> 4, low[i + 32] >> 4)
                for j, part in enumerate(parts):
                    value = (part | ((high[i] >> 2 * j) & 3) << 4) - 32
                    out[128 * n + 32 * j + i] = d * sign(scale[i // 16 + 2 * j]) * value
    return np.asarray(out)


@pytest.mark.parametrize("kind", quants.FORMATS)
def test_block_formats_match_ggml_weight_by_weight(kind):
    name, weights, width, _ = quants.FORMATS[kind]
    rng = np.random.default_rng(kind)
    blocks = rng.integers(0, 256, (5, width), dtype=np.uint8)
    for at in {"Q8_0": (0,), "Q4_0": (0,), "Q5_0": (0,), "Q6_K": (208,)}.get(name, (0, 2)):
        scales = rng.normal(size=5).astype("<f2")
        blocks[:, at : at + 2] = scales[:, None].view(np.uint8).reshape(5, 2)
    got = quants.dequantise(blocks.reshape(-1), kind).reshape(5, weights)
    want = np.stack([by_hand(name, block) for block in blocks])
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


def string(text):
    raw = text.encode()
    return struct.pack("<Q", len(raw)) + raw


def value(item):
    if isinstance(item, str):
        return struct.pack("<I", 8) + string(item)
    if isinstance(item, bool):
        return struct.pack("<I?", 7, item)
    if isinstance(item, int):
        return struct.pack("<II", 4, item)
    if isinstance(item, float):
        return struct.pack("<If", 6, item)
    kind = 8 if isinstance(item[0], str) else 5
    body = b"".join(string(x) if kind == 8 else struct.pack("<i", x) for x in item)
    return struct.pack("<IIQ", 9, kind, len(item)) + body


def write(path, fields, arrays, version=3):
    """A GGUF file of float32 tensors."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(arrays), len(fields))
    head += b"".join(string(key) + value(item) for key, item in fields.items())
    data = b""
    for name, array in arrays.items():
        head += string(name) + struct.pack("<I", array.ndim)
        head += struct.pack(f"<{array.ndim}Q", *array.shape[::-1]) + struct.pack(
            "<IQ", 0, len(data)
        )
        data += array.astype("<f4").tobytes()
        data += bytes(-len(data) % 32)
    path.write_bytes(head + bytes(-len(head) % 32) + data)


TOKENS = ["<|end|>", "<|user|>", "<|x|>", *"abcdefghijklm", "Ġ", "1", "2", "ab", "Ġa", "Ġab", "12"]
TOKENS += [f"<unused{i}>" for i in range(40 - len(TOKENS))]


def model(o):
    """(fields, tensors, our parameters) of a LLaMA as llama.cpp writes it."""
    params = parameters(o)
    flat, arrays = rename.flatten(params), {}
    for line in rename.lines(GGUF, o):
        (array,) = line.save([flat[path] for path in line.ours])
        if line.theirs[0].endswith(("attn_q.weight", "attn_k.weight")):
            count = array.shape[0] // o.size
            halves = array.reshape(count, 2, o.size // 2, o.width)
            array = halves.swapaxes(1, 2).reshape(array.shape)
        arrays[line.theirs[0]] = array
    fields = {
        "general.architecture": "llama", "llama.block_count": o.layers,
        "llama.context_length": o.context, "llama.embedding_length": o.width,
        "llama.feed_forward_length": o.hidden, "llama.attention.head_count": o.heads,
        "llama.attention.head_count_kv": o.groups, "llama.rope.freq_base": o.rope_theta,
        "llama.attention.layer_norm_rms_epsilon": o.norm_eps, "llama.vocab_size": o.vocab,
        "tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS, "tokenizer.ggml.token_type": [3] * 3 + [1] * 37,
        "tokenizer.ggml.merges": ["a b", "Ġ a", "Ġa b", "1 2"],
        "tokenizer.ggml.eos_token_id": 0, "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.chat_template": "{{ messages }}",
    }  # fmt: skip
    return fields, arrays, params


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("version", [2, 3])
def test_a_file_gives_the_model_that_it_was_written_from(tmp_path, tied, version):
    o = Options.of(families.row("llama", **SMALL, tied=tied))
    fields, arrays, params = model(o)
    write(tmp_path / "m.gguf", fields, arrays, version)
    loaded = interop.load(tmp_path / "m.gguf")
    assert loaded.options == o
    want, got = rename.flatten(params), rename.flatten(loaded.variables["params"])
    assert want.keys() == got.keys() and all(np.array_equal(want[k], got[k]) for k in want)
    assert loaded.special == dict(bos=1, eos=0, pad=-1, unk=-1)
    assert loaded.chat_template == "{{ messages }}"
    encoded = loaded.tokenizer.encode("ab 12ab<|end|>a").tokens
    assert encoded == ["ab", "Ġ", "1", "2", "ab", "<|end|>", "a"]
    assert loaded.tokenizer.decode(loaded.tokenizer.encode("ab 12 a").ids) == "ab 12 a"
    assert interop.load(tmp_path).options == o


def test_rotary_scaling_of_llama_3_is_recognised(tmp_path):
    o = Options.of(families.row("llama", **SMALL, rope_theta=5e5, rope_original=8192))
    fields, arrays, _ = model(o)
    scaled = o.replace(rope_scaling="llama3", rope_factor=32.0)
    arrays["rope_freqs.weight"] = gguf.frequencies(o) / gguf.frequencies(scaled)
    write(tmp_path / "m.gguf", fields, arrays)
    assert interop.load(tmp_path / "m.gguf").options == scaled
    arrays["rope_freqs.weight"] = arrays["rope_freqs.weight"] * 1.5
    write(tmp_path / "m.gguf", fields, arrays)
    with pytest.raises(ValueError, match="rope_freqs"):
        interop.load(tmp_path / "m.gguf")


@pytest.mark.parametrize(
    ("key", "item"),
    [
        ("general.architecture", "qwen2"),
        ("llama.expert_count", 8),
        ("llama.rope.scaling.type", "yarn"),
        ("llama.rope.dimension_count", 8),
        ("llama.block_count", 2.5),
        ("tokenizer.ggml.pre", "qwen2"),
        ("tokenizer.ggml.merges", ["a q"]),
        ("tokenizer.ggml.eos_token_id", 40),
    ],
)
def test_unsupported_fields_are_named(tmp_path, key, item):
    fields, arrays, _ = model(Options.of(families.row("llama", **SMALL)))
    write(tmp_path / "m.gguf", fields | {key: item}, arrays)
    with pytest.raises(ValueError, match=key.replace(".", r"\.")):
        interop.load(tmp_path / "m.gguf")


def test_missing_left_over_and_misshapen_tensors_are_named(tmp_path):
    fields, arrays, _ = model(Options.of(families.row("llama", **SMALL)))
    file = tmp_path / "m.gguf"
    for name, changed in {
        "blk.1.ffn_up.weight": {k: v for k, v in arrays.items() if k != "blk.1.ffn_up.weight"},
        "blk.0.extra": {**arrays, "blk.0.extra": np.zeros(3)},
        "output_norm.weight": {**arrays, "output_norm.weight": np.zeros(3)},
    }.items():
        write(file, fields, changed)
        with pytest.raises(ValueError, match=name):
            interop.load(file)


def test_damaged_files_are_refused(tmp_path):
    fields, arrays, _ = model(Options.of(families.row("llama", **SMALL)))
    file = tmp_path / "m.gguf"
    write(file, fields, arrays)
    whole = file.read_bytes()
    for cut in (3, 30, 200, len(whole) // 2, len(whole) - 100):
        file.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="GGUF|damaged|truncated"):
            interop.load(file)
    huge = struct.pack("<Q", 2**60)
    for at in (8, 16, 24):  # the number of tensors, of fields, the length of the first key
        file.write_bytes(whole[:at] + huge + whole[at + 8 :])
        with pytest.raises(ValueError, match="at most|damaged"):
            interop.load(file)
    file.write_bytes(b"GGML" + whole[4:])
    with pytest.raises(ValueError, match="not a GGUF file"):
        interop.load(file)


@pytest.mark.parametrize("begins", [True, False])
def test_a_file_that_begins_texts_says_so_in_the_folder(begins, tmp_path):
    o = Options.of(families.row("llama", **SMALL, tied=True))
    fields, arrays, _ = model(o)
    fields["tokenizer.ggml.add_bos_token"] = begins
    write(tmp_path / "m.gguf", fields, arrays)
    loaded = interop.load(tmp_path / "m.gguf")
    interop.export(tmp_path, o, loaded.variables["params"], loaded.tokenizer, loaded.special)
    raw = interop.load(tmp_path).tokenizer
    front = [fields["tokenizer.ggml.bos_token_id"]] if begins else []
    assert raw.encode("ab").ids == [*front, *raw.encode("ab", add_special_tokens=False).ids]


@pytest.mark.parametrize("split, begins", [("llama-bpe", True), ("smollm", False)])
def test_where_a_file_does_not_say_its_split_does(split, begins, tmp_path):
    """As in llama.cpp, whose files of LLaMA 3 lack the field."""
    o = Options.of(families.row("llama", **SMALL, tied=True))
    fields, arrays, _ = model(o)
    fields["tokenizer.ggml.pre"] = split
    write(tmp_path / "m.gguf", fields, arrays)
    raw = interop.load(tmp_path / "m.gguf").tokenizer
    assert (raw.encode("ab").ids[0] == fields["tokenizer.ggml.bos_token_id"]) == begins
    fields["tokenizer.ggml.add_bos_token"] = not begins
    write(tmp_path / "m.gguf", fields, arrays)
    raw = interop.load(tmp_path / "m.gguf").tokenizer
    assert (raw.encode("ab").ids[0] == fields["tokenizer.ggml.bos_token_id"]) != begins


def test_a_prompt_begins_once(tmp_path):
    """Whether or not the prompt writes the first token out itself."""
    o = Options.of(families.row("llama", **SMALL, tied=True))
    fields, arrays, _ = model(o)
    fields["tokenizer.ggml.add_bos_token"] = True
    write(tmp_path / "m.gguf", fields, arrays)
    source = sample.load(tmp_path / "m.gguf")
    first = fields["tokenizer.ggml.bos_token_id"]
    want = source.encode("ab")
    assert want[0] == first and source.encode(fields["tokenizer.ggml.tokens"][first] + "ab") == want
    assert source.encode("") == [first]
