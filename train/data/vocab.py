"""Training of the five kinds of vocabulary, each reversible for every Unicode text.

Every kind ends as one ``tokenizers.Tokenizer`` whose pre-tokeniser keeps all white space and whose
vocabulary holds all 256 bytes in some form, so that no character is ever unknown:

=========  ==========================================  ============================================
kind       pieces                                      what an unseen character becomes
=========  ==========================================  ============================================
byte       the 256 bytes of UTF-8                      its bytes (nothing is unseen)
char       the characters of the training texts        its UTF-8 bytes, ``<0x00>`` .. ``<0xFF>``
word       whole words, the space before included      the bytes of the whole word
bpe        byte-level BPE (Radford et al. 2019)        its bytes
wordpiece  byte-level, ``##`` marks a continuation,    its bytes
           longest match first (Devlin et al. 2019)
unigram    sentencepiece's unigram language model      its UTF-8 bytes, ``<0x00>`` .. ``<0xFF>``
           (Kudo 2018)
=========  ==========================================  ============================================

Training is deterministic. ``tokenizers``' own WordPiece trainer is not (two runs on the same text
give two vocabularies), so WordPiece's pieces are counted from a byte-level BPE of the same texts.
Special tokens come last, as in GPT-2.
"""

import io
from collections import Counter

import numpy as np
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

KINDS = ("byte", "char", "word", "bpe", "wordpiece", "unigram")
DEFAULT_SIZES = {"word": 8192, "bpe": 4096, "wordpiece": 4096, "unigram": 4096}
BYTE_PIECES = [f"<0x{byte:02X}>" for byte in range(256)]
CONTINUES = "##"
SPACE = "\u2581"
LONGEST = 100  # bytes of a word that WordPiece looks pieces up in
GROUP = 1 << 20  # characters encoded at once while pieces are counted
LOWEST = -1e4


def byte_alphabet() -> list[str]:
    """Returns the 256 printable stand-ins of byte-level BPE; entry ``b`` stands for byte ``b``."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = iter(range(256, 512))
    return [chr(byte) if byte in kept else chr(next(moved)) for byte in range(256)]


def _byte_level():
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


def _finish(tokenizer, specials):
    tokenizer.add_special_tokens(list(specials))
    return tokenizer


def _room(kind, size, least, specials):
    """Returns how many pieces may be learnt, or refuses a vocabulary too small for the bytes."""
    room = size - least - len(specials)
    if room < 0:
        raise ValueError(
            f"a {kind} vocabulary of {size} is too small: {least} entries for the bytes and "
            f"{len(specials)} special come first, so ask for more than {least + len(specials)}"
        )
    return room


def train_byte(texts, size, specials):
    """Builds the vocabulary of the 256 bytes; nothing is learnt and id ``b`` is byte ``b``."""
    vocabulary = {piece: byte for byte, piece in enumerate(byte_alphabet())}
    tokenizer = Tokenizer(models.BPE(vocabulary, []))
    tokenizer.pre_tokenizer = _byte_level()
    tokenizer.decoder = decoders.ByteLevel()
    return _finish(tokenizer, specials)


def train_char(texts, size, specials):
    """Builds bytes 0..255, then every character seen (the ``size`` commonest ones if given)."""
    counts = Counter()
    for text in texts:
        counts.update(text)
    common = sorted(counts, key=lambda char: (-counts[char], char))
    if size:
        common = common[: _room("char", size, 256, specials)]
    pieces = BYTE_PIECES + sorted(common)
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    tokenizer = Tokenizer(models.BPE(vocabulary, [], byte_fallback=True))
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return _finish(tokenizer, specials)


def train_word(texts, size, specials):
    """Builds the bytes and the commonest words, the space before a word being part of it."""
    room = _room("word", size, 256, specials)
    counter = Tokenizer(models.WordLevel(unk_token="<unk>"))
    counter.pre_tokenizer = _byte_level()
    trainer = trainers.WordLevelTrainer(vocab_size=room + 256, show_progress=False)
    counter.train_from_iterator(texts, trainer)
    words = sorted(counter.get_vocab().items(), key=lambda item: item[1])
    alphabet = byte_alphabet()
    single = set(alphabet)
    pieces = alphabet + [word for word, _ in words if word not in single][:room]
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    # With ignore_merges and no merges a word is either one entry as a whole, or its bytes.
    tokenizer = Tokenizer(models.BPE(vocabulary, [], ignore_merges=True))
    tokenizer.pre_tokenizer = _byte_level()
    tokenizer.decoder = decoders.ByteLevel()
    return _finish(tokenizer, specials)


def train_bpe(texts, size, specials):
    """Learns byte-level BPE as GPT-2's: 256 bytes, then merges by falling pair count."""
    room = _room("bpe", size, 256, specials)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = _byte_level()
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=room + 256, initial_alphabet=byte_alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return _finish(tokenizer, specials)


def train_wordpiece(texts, size, specials):
    """Learns WordPiece: the commonest first and continuing forms of a byte-level BPE's pieces.

    A literal ``#`` is always a piece of its own, so that ``##`` in front of a piece can only mean
    that it continues a word: this is what makes the decoder exact. Longest match first takes time
    with the cube of a word's length, so a longer one than ``LONGEST`` bytes (BERT's own limit, past
    which it has no tokens for a word) is looked up in parts.
    """
    room = _room("wordpiece", size, 512, specials)
    parts = pre_tokenizers.Split(Regex(f".{{1,{LONGEST}}}"), "isolated")
    split = pre_tokenizers.Sequence([pre_tokenizers.Split("#", "isolated"), _byte_level(), parts])
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = split
    alphabet = byte_alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=room + 256, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(texts, trainer)
    first, after = _count_forms(bpe, texts)
    names = bpe.get_vocab()
    single = set(alphabet)
    forms = []
    for piece, index in names.items():
        if piece not in single:
            forms += [(-first[index], piece), (-after[index], CONTINUES + piece)]
    learnt = [piece for count, piece in sorted(forms) if count < 0][:room]
    pieces = alphabet + [CONTINUES + byte for byte in alphabet] + learnt
    vocabulary = {piece: index for index, piece in enumerate(pieces)}
    model = models.WordPiece(
        vocabulary,
        unk_token=alphabet[0],
        continuing_subword_prefix=CONTINUES,
        max_input_chars_per_word=1 << 30,
    )
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = split
    strip = decoders.Replace(Regex("^" + CONTINUES), "")
    tokenizer.decoder = decoders.Sequence([strip, decoders.ByteLevel()])
    return _finish(tokenizer, specials)


def _count_forms(bpe, texts):
    """Counts how often each BPE piece begins a word and how often it continues one."""
    size = bpe.get_vocab_size()
    first, after = np.zeros(size, np.int64), np.zeros(size, np.int64)
    for group in _groups(texts):
        for encoding in bpe.encode_batch(group, add_special_tokens=False):
            ids = np.asarray(encoding.ids, np.int64)
            words = np.asarray([-1 if w is None else w for w in encoding.word_ids], np.int64)
            begins = np.diff(words, prepend=-2) != 0
            first += np.bincount(ids[begins], minlength=size)
            after += np.bincount(ids[~begins], minlength=size)
    return first, after


def _groups(texts):
    """Lists of texts, each of hardly more than ``GROUP`` characters: an encoding is large."""
    group, count = [], 0
    for text in texts:
        if group and count + len(text) > GROUP:
            yield group
            group, count = [], 0
        group.append(text)
        count += len(text)
    if group:
        yield group


def train_unigram(texts, size, specials):
    """Learns sentencepiece's unigram model and turns it into a tokenizer.json.

    Spaces are real characters in the pieces here (not U+2581), so that a U+2581 in the text stays
    what it is; a newline is always a piece of its own. Needs the package ``sentencepiece``.
    """
    try:
        import sentencepiece
    except ImportError as error:
        raise ValueError(
            "a unigram vocabulary is trained by the package sentencepiece, which is missing: "
            "pip install sentencepiece"
        ) from error
    room = _room("unigram", size, 257, specials)
    lines = [line for text in texts for line in text.replace(SPACE, " ").split("\n") if line]
    # The characters that spell a byte piece are always learnt, so that a literal "<0x41>" in a
    # text is spelt with them and never taken for the byte.
    needed = "<0x123456789ABCDEF>"
    if room < len(set(needed)) + 2 or not any(line.strip() for line in lines):
        raise ValueError(
            f"a unigram vocabulary of {size} over {sum(map(len, lines))} characters is too small: "
            "ask for at least 512, and give it text"
        )
    written = io.BytesIO()
    options = dict(
        model_type="unigram",
        vocab_size=room + 257,
        byte_fallback=True,
        normalization_rule_name="identity",
        add_dummy_prefix=False,
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        character_coverage=0.9999,
        required_chars=needed,
        max_sentence_length=1 << 24,
        hard_vocab_limit=False,
        num_threads=2,
        unk_id=0,
        bos_id=-1,
        eos_id=-1,
        pad_id=-1,
        minloglevel=2,
    )
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=written, **options
        )
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"sentencepiece cannot train a vocabulary of {size}: {reason}") from error
    return _finish(_from_sentencepiece(sentencepiece, written.getvalue()), specials)


def _from_sentencepiece(sentencepiece, model):
    processor = sentencepiece.SentencePieceProcessor(model_proto=model)
    scored = [(piece, LOWEST) for piece in BYTE_PIECES] + [("\n", 0.0)]
    for index in range(processor.get_piece_size()):
        if not processor.is_byte(index) and not processor.is_unknown(index):
            piece = processor.id_to_piece(index).replace(SPACE, " ")
            scored.append((piece, round(processor.get_score(index), 6)))
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=0, byte_fallback=True))
    words = Regex(r"\n| ?[^ \n]+| +(?![^ \n])| ")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(words, "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


TRAINERS = {
    "byte": train_byte,
    "char": train_char,
    "word": train_word,
    "bpe": train_bpe,
    "wordpiece": train_wordpiece,
    "unigram": train_unigram,
}
