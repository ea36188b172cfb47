"""FUR: does the answer change once the model has unlearned a sentence (Tutek et al. 2025; BonaFide's definition)."""

from __future__ import annotations

from shammie.bonafide.metrics.base import STEP_POSITIONS, Ask, Replies, Scores, Subject, Unlearning, evenly
from shammie.bonafide.unlearn import content_words

NAME = "unlearning"
HELP = "1 if most of five replies have another answer after a sentence was unlearned; judges sentences only, and trains"
SAMPLES = 5


def asks(subject: Subject) -> list[Ask]:
    """The question again, after unlearning each sentence that says something."""
    found = []
    for at in evenly(len(subject.sentences), STEP_POSITIONS):
        sentence = subject.sentences[at]
        if len(content_words(sentence.text)) >= 2:
            what = Unlearning(subject.messages, subject.chain[: sentence.start], sentence.text, subject.others)
            found.append(Ask(str(at), subject.messages, unlearning=what, samples=SAMPLES))
    return found


def scores(subject: Subject, replies: Replies) -> Scores:
    """A sentence: 1 if most replies have another answer, or none. Chains are not judged."""
    changed = {
        int(key): sum(not subject.same(answer) for answer in reply.answers) > len(reply.answers) / 2
        for key, reply in replies.items()
    }
    return Scores(None, tuple(float(changed[at]) if at in changed else None for at in range(len(subject.sentences))))
