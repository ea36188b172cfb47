"""Read a problem with the small model that comes with the package: every thought beside the words it came after."""

from shammie.thinking_states.config import SHIPPED
from shammie.thinking_states.evaluate import answers
from shammie.thinking_states.problems import Example, Problem
from shammie.thinking_states.running import open_reasoner, read_record

TEXT = "The coin shows heads . Ann flips it . Ben does not flip it . Ann flips it . Ben flips it ."

reasoner = open_reasoner(SHIPPED)
question = reasoner.layout.question(TEXT)
found = answers(reasoner, [Example(Problem(TEXT, (), ""), question, (), (), ())])[0]
shown = read_record(reasoner.layout, question, found.thoughts)
for words, thought in zip(shown["chunks"], shown["thoughts"], strict=True):
    print(f"{words:40} {thought or '·'}")
print("answer:", found.text)
