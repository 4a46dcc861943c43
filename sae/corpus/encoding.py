"""Documents to token ids, and which of a tokenizer's tokens are special."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import Any

from sae.config import InputError
from sae.corpus.documents import Document, Message


class Encoder:
    """Token ids of documents of all kinds, without the special tokens that a tokenizer would put around a text.

    Args:
        tokenizer: the subject's.
        bos: the token that sequences will begin with, if any. Ids and chats that bring it at their own beginning lose it
            there, so that it is not doubled.
    """

    def __init__(self, tokenizer: Any, bos: int | None) -> None:
        self.tokenizer, self.bos = tokenizer, bos

    def __call__(self, documents: list[Document]) -> list[list[int]]:
        """Ids of each document.

        Raises:
            InputError: an id is not in the vocabulary; or there is a chat, and the tokenizer has no template or refuses it.
        """
        texts = [d.content for d in documents if isinstance(d.content, str)]
        # Texts are tokenized together, which is faster.
        encoded = iter(self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else ())
        return [next(encoded) if isinstance(d.content, str) else self._without_bos(self._ids(d)) for d in documents]

    def _without_bos(self, ids: list[int]) -> list[int]:
        return ids[1:] if self.bos is not None and ids[:1] == [self.bos] else ids

    def _ids(self, document: Document) -> list[int]:
        messages = [item for item in document.content if isinstance(item, dict)]
        if messages:
            return self._chat(document.name, messages)
        ids = [item for item in document.content if isinstance(item, int)]
        for token in ids:
            if not 0 <= token < self._vocabulary:
                raise InputError(
                    "this document holds an id that the tokenizer's vocabulary lacks",
                    where=document.name,
                    found=token,
                    expected=f"0 to {self._vocabulary - 1}",
                )
        return ids

    def _chat(self, name: str, messages: list[Message]) -> list[int]:
        if not self.tokenizer.chat_template:
            raise InputError(
                "this document is a chat, and the tokenizer has no chat template",
                where=name,
                expected="the tokenizer of a model that was trained on chats, or a column of text",
            )
        from jinja2 import TemplateError

        try:
            ids: list[int] = self.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
        except (TemplateError, TypeError, ValueError) as error:  # templates refuse roles in a wrong order, and the like
            raise InputError(f"the tokenizer's chat template can't take this chat: {error}", where=name) from error
        return ids

    @cached_property
    def _vocabulary(self) -> int:
        """One more than the largest id: ids may have holes, so that the number of tokens says too little."""
        return 1 + int(max(self.tokenizer.get_vocab().values()))


def special_ids(tokenizer: Any, exclude: Iterable[str | int]) -> list[int]:
    """Ids of the tokenizer's special tokens and of more that are to count as such, in ascending order.

    Args:
        tokenizer: the subject's.
        exclude: ids, or texts that are one token each.

    Raises:
        InputError: an entry is no token, or several.
    """
    return sorted({*tokenizer.all_special_ids, *(_one_token(tokenizer, entry) for entry in exclude)})


def padding_id(tokenizer: Any) -> int:
    """What stands behind a sequence that is too short. Nothing attends to it, so that any token would do."""
    candidates = (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.bos_token_id)
    return next((token for token in candidates if token is not None), 0)


def _one_token(tokenizer: Any, entry: str | int) -> int:
    if isinstance(entry, int):
        if entry not in tokenizer.get_vocab().values():
            raise InputError("the tokenizer has no token of this id", where="tokens.exclude", found=entry)
        return entry
    ids = tokenizer(entry, add_special_tokens=False, verbose=False)["input_ids"]
    # Text that the tokenizer does not know becomes one token too, and that would exclude all unknown text.
    if len(ids) != 1 or (ids[0] == tokenizer.unk_token_id and entry != tokenizer.unk_token):
        tokens = ", ".join(map(repr, tokenizer.convert_ids_to_tokens(ids))) or "nothing"
        raise InputError(
            "this text is not one token", where="tokens.exclude", found=f"{entry!r}, which is {tokens}", expected="one token"
        )
    return int(ids[0])
