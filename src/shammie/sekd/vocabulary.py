"""Which classes a student and a teacher share."""

from __future__ import annotations

from shammie.core import files
from shammie.core.errors import MismatchError
from shammie.core.model import LanguageModel


def known_tokens(model: LanguageModel) -> int:
    """One more than the largest id of the tokenizer; rows of the head beyond it are padding."""
    return 1 + max(model.tokenizer.get_vocab().values())


def tokenizer_hash(model: LanguageModel) -> str:
    """sha256 of the vocabulary: every token with its id."""
    lines = [f"{index} {token}" for token, index in sorted(model.tokenizer.get_vocab().items())]
    return files.sha256_bytes(files.encode("\n".join(lines)))


def shared_vocabulary(student: LanguageModel, teacher: LanguageModel) -> int:
    """Classes that both tokenizers and both heads have: heads are padded, to different widths even within a family.

    Errors: MismatchError unless every token that both tokenizers know has the same id in both.
    """
    ours, theirs = student.tokenizer.get_vocab(), teacher.tokenizer.get_vocab()
    shared = ours.keys() & theirs.keys()
    apart = sum(ours[token] != theirs[token] for token in shared)
    if apart or not shared:
        raise MismatchError(
            f"{student.name} and {teacher.name} number {apart or 'all'} of their tokens differently, so their predictions "
            "cannot be compared; name a teacher with the student's tokenizer"
        )
    heads = (model.anatomy.vocabulary_size for model in (student, teacher))
    return min(known_tokens(student), known_tokens(teacher), *heads)
