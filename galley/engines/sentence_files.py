"""What the files beside a sentence encoder's weights say, and its tokenizer."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from galley.core.errors import BadRequestError
from galley.engines.graphs import BertShape
from galley.engines.weights import WeightsError

Pooling = Literal["mean", "cls"]
Inputs = Sequence[str] | Sequence[Sequence[int]]

# Hardly a text has longer tokens: if its head is too long already, the rest need not be read.
_CHARACTERS_PER_TOKEN = 32
_DEFAULT_MAX_TOKENS = 512
# A book is tokenised in pieces: what a tokenizer keeps of a text is a hundred times its size.
_PIECE_CHARACTERS = 50_000


@dataclass(frozen=True, slots=True)
class WordPieces:
    """A tokenizer, and the tokens that its model wants before and after each text."""

    tokenizer: Tokenizer
    vocabulary: int
    max_tokens: int
    padding: int
    before: list[int]
    after: list[int]

    def rows(self, inputs: Inputs, *, truncate: bool) -> list[list[int]]:
        """Token ids per input, special tokens included.

        Raises:
            BadRequestError: an input is too long, or has a token id that the model lacks.
        """
        if isinstance(inputs[0], str):
            found: Sequence[Sequence[int]] = self._tokenised(cast(Sequence[str], inputs))
        else:
            found = cast(Sequence[Sequence[int]], inputs)
        for number, ids in enumerate(found):
            if len(ids) > self._room and not truncate:
                raise self._too_long(inputs, number, len(ids))
        found = [ids[: self._room] for ids in found]
        if not isinstance(inputs[0], str):
            self._check(found)
        return [self.wrap(ids) for ids in found]

    def starts(self, text: str) -> NDArray[np.int32]:
        """Where each token of `text` begins, in characters, special tokens left out."""
        found: list[NDArray[np.int32]] = []
        begin = 0
        while begin < len(text):
            end = _end_of_piece(text, begin)
            # A batch of one: `encode` would hold the GIL.
            (encoding,) = self.tokenizer.encode_batch([text[begin:end]], add_special_tokens=False)
            starts = np.fromiter((start for start, _ in encoding.offsets), np.int32)
            found.append(starts + np.int32(begin))
            begin = end
        return np.concatenate(found) if found else np.empty(0, np.int32)

    def wrap(self, ids: Sequence[int]) -> list[int]:
        """Put the special tokens around a text's own; a text of none at all becomes padding."""
        return [*self.before, *ids, *self.after] or [self.padding]

    @property
    def _room(self) -> int:
        return self.max_tokens - len(self.before) - len(self.after)

    def _tokenised(self, texts: Sequence[str]) -> list[list[int]]:
        heads = [text[: self.max_tokens * _CHARACTERS_PER_TOKEN] for text in texts]
        encoded = self.tokenizer.encode_batch_fast(heads, add_special_tokens=False)
        found = [encoding.ids for encoding in encoded]
        for number, (text, head) in enumerate(zip(texts, heads, strict=True)):
            if len(head) < len(text) and len(found[number]) <= self._room:
                found[number] = self.tokenizer.encode_batch_fast(
                    [text],
                    add_special_tokens=False,  # `encode` would hold the GIL
                )[0].ids
        return found

    def _too_long(self, inputs: Inputs, number: int, tokens: int) -> BadRequestError:
        head_only = len(inputs[number]) > self.max_tokens * _CHARACTERS_PER_TOKEN
        more = "more than " if head_only and isinstance(inputs[number], str) else ""
        tokens += self.max_tokens - self._room
        return BadRequestError(
            f"Input {number} has {more}{tokens} tokens and this model reads at most"
            f" {self.max_tokens}. Shorten it, or send truncate: true to have it cut.",
            code="context_length_exceeded",
            param="input",
        )

    def _check(self, rows: Sequence[Sequence[int]]) -> None:
        for number, ids in enumerate(rows):
            array = np.asarray(ids)
            bad = array[(array < 0) | (array >= self.vocabulary)]
            if bad.size:
                raise BadRequestError(
                    f"Input {number} has token {bad[0]}; this model's go from 0 to"
                    f" {self.vocabulary - 1}.",
                    code="unknown_token",
                    param="input",
                )


def _end_of_piece(text: str, begin: int) -> int:
    """Where to cut for the tokenizer: at the end of a line or a word, if there is one."""
    end = begin + _PIECE_CHARACTERS
    if end >= len(text):
        return len(text)
    for space in ("\n", " "):
        if (found := text.rfind(space, begin, end)) > begin:
            return found
    return end


@dataclass(frozen=True, slots=True)
class SentenceFiles:
    """A sentence encoder's folder, read except for the weights."""

    folder: Path
    config: dict[str, Any]
    pieces: WordPieces
    pooling: Pooling

    @classmethod
    def read(cls, folder: Path) -> "SentenceFiles":
        """Read `tokenizer.json` and what there is of the configuration.

        Raises:
            WeightsError: a file is missing, damaged, or asks for what is not supported.
        """
        known = ("model.onnx", "model.safetensors", "model.safetensors.index.json")
        if not any((folder / name).is_file() for name in known):
            raise WeightsError(f"{folder} has neither model.onnx nor model.safetensors")
        config = read_json(folder / "config.json")
        return cls(folder, config, _read_pieces(folder, config), _read_pooling(folder))

    def refuse_dense(self) -> None:
        """Refuse what has layers after pooling.

        Raises:
            WeightsError: it does.
        """
        modules = self.folder / "modules.json"
        if modules.is_file() and ".Dense" in modules.read_text(encoding="utf-8"):
            raise WeightsError(f"{self.folder} has a dense layer after pooling; export it to ONNX")

    def bert_shape(self) -> BertShape:
        """How the BERT in `model.safetensors` is built.

        Raises:
            WeightsError: it is not a BERT, or a variant whose graph is not known here.
        """
        wanted = {
            "model_type": "bert",
            "hidden_act": "gelu",
            "position_embedding_type": "absolute",
        }
        for name, value in wanted.items():
            found = self.config.get(name, None if name == "model_type" else value)
            if found != value:
                raise WeightsError(
                    f"{self.folder}: {name} is {found!r} and only {value!r} is built here;"
                    " export the model to ONNX and give the folder with model.onnx, or let"
                    ' transformers run it: engine = "torch"'
                )
        self.refuse_dense()
        try:
            return BertShape(
                layers=int(self.config["num_hidden_layers"]),
                heads=int(self.config["num_attention_heads"]),
                epsilon=float(self.config["layer_norm_eps"]),
                pooling=self.pooling,
            )
        except (KeyError, TypeError, ValueError) as error:
            raise WeightsError(f"{self.folder / 'config.json'} lacks {error}") from error


def read_json(path: Path) -> dict[str, Any]:
    """Read an object; empty where there is no such file.

    Raises:
        WeightsError: it is not a JSON object.
    """
    try:
        found: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise WeightsError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise WeightsError(f"{path} is not a JSON object")
    return cast(dict[str, Any], found)


def _read_pieces(folder: Path, config: dict[str, Any]) -> WordPieces:
    path = folder / "tokenizer.json"
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises plain exceptions
        raise WeightsError(f"{path} cannot be read: {error}") from error
    max_tokens = _max_tokens(folder, config, tokenizer)
    padding = (tokenizer.padding or {}).get("pad_id", config.get("pad_token_id") or 0)
    # What the file asks for was meant for training: MiniLM's pads and cuts all to 128.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    sample = tokenizer.encode("a")
    own = [i for i, special in enumerate(sample.special_tokens_mask) if not special]
    if not own:
        raise WeightsError(f"{path} knows no letters")
    vocabulary = tokenizer.get_vocab_size()
    return WordPieces(
        tokenizer=tokenizer,
        vocabulary=min(vocabulary, config.get("vocab_size", vocabulary)),
        max_tokens=max_tokens,
        padding=padding,
        before=sample.ids[: own[0]],
        after=sample.ids[own[-1] + 1 :],
    )


def _max_tokens(folder: Path, config: dict[str, Any], tokenizer: Tokenizer) -> int:
    """The model's own limit; its tokenizer's file is asked only where nothing else says it."""
    limits = [
        read_json(folder / "sentence_bert_config.json").get("max_seq_length"),
        read_json(folder / "tokenizer_config.json").get("model_max_length"),
        config.get("max_position_embeddings"),
    ]
    # Files that know no limit write 10**30.
    known = [limit for limit in limits if isinstance(limit, int) and 2 < limit < 1_000_000]
    if known:
        return min(known)
    return (tokenizer.truncation or {}).get("max_length", _DEFAULT_MAX_TOKENS)


def _read_pooling(folder: Path) -> Pooling:
    found = read_json(folder / "1_Pooling" / "config.json")
    asked = [
        n.removeprefix("pooling_mode_").removesuffix("_tokens").removesuffix("_token")
        for n, on in found.items()
        if n.startswith("pooling_mode_") and on is True
    ]
    if "pooling_mode" in found:  # as sentence-transformers writes it from version 6 on
        asked = [str(found["pooling_mode"])]
    if asked in ([], ["mean"]):
        return "mean"
    if asked == ["cls"]:
        return "cls"
    raise WeightsError(f"{folder} pools by {', '.join(asked)}; known are mean and cls")
