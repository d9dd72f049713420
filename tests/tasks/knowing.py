"""A family whose answers are known, and what the task of language finds of it."""

import numpy as np
import torch
from torch import nn

from wm_pipelines.families.base import FamilyConfig
from wm_pipelines.families.parts.language import TextScore
from wm_pipelines.families.parts.members import MemberFamily
from wm_pipelines.laws import laws_of
from wm_pipelines.tasks.language import Language
from wm_pipelines.worlds.parts.scene_grammar import caption, scene

FEW = {
    "train": 80,
    "validation": 10,
    "test": 60,
    "held_out": 40,
    "moving": 12,
    "moving_frames": 30,
    "objects": (0.5, 0.3, 0.2),
}


class Knowing(MemberFamily):
    """Answers with the truth of the episodes it is given; ``wrong`` turns the first object of some captions."""

    name = "knowing"
    Config = FamilyConfig
    needs = ("frames", "captions")
    truth = None
    wrong = ()
    deaf = False

    def make_member(self):
        return nn.Linear(1, 1)

    def member_loss(self, member, batch, generator, progress):
        raise TypeError

    def member_encode(self, member, views):
        return views["frames"].float().flatten(2), None

    def caption(self, frames, seed):
        said = self.truth["captions"].tolist()[: len(frames)]
        return [_turned(text) if k in self.wrong else text for k, text in enumerate(said)]

    def generate(self, captions, seed, generator):
        return torch.tensor(self.truth["frames"][: len(captions), 0]).float() / 255

    def choose(self, frames, questions, candidates, seed):
        """Knows what is asked of which episode; ``deaf`` to questions, it likes all candidates alike."""
        offered = [bytes(row).rstrip(b"\0").decode() for row in candidates.numpy()]
        scores = torch.zeros(*questions.shape[:2], len(offered))
        if self.deaf:
            return scores
        wanted = {}
        for one, asked, answers in zip(*(self.truth[v] for v in ("frames", "questions", "answers")), strict=True):
            for question, answer in zip(asked.tolist(), answers.tolist(), strict=True):
                wanted[one.tobytes(), question] = answer
        for one, asked, row in zip(frames.numpy(), questions, scores, strict=True):
            for question, row_of_one in zip(asked, row, strict=True):
                answer = wanted[one.tobytes(), bytes(question.tolist()).rstrip(b"\0").decode()]
                if answer in offered:
                    row_of_one[offered.index(answer)] = 1.0
        return scores

    def embed_texts(self, texts, seed):
        noise = torch.randn(len(texts), 4, generator=torch.Generator().manual_seed(0))
        return 1.0 + (0.01 if self.deaf else 1.0) * noise

    def language_parameters(self):
        return {"language": 7, "text": 3}

    def score(self, captions, frames, seed):
        count = len(captions)
        certain = torch.zeros(count) if frames is not None else torch.full((count,), 10 * np.log(2))
        return TextScore(certain.double(), torch.full((count,), 10))


def _turned(text):
    first, *rest = scene(text)
    return caption([first._replace(colour=(first.colour + 1) % 5), *rest])


def judged(episodes, split="test", wrong=(), deaf=False, **config):
    family = Knowing(FamilyConfig(), episodes["train"].spec.showing(Language.shows), [0, 1])
    family.truth, family.wrong, family.deaf = episodes[split], wrong, deaf
    config = Language().config({"drawn": 40, "shown": 3, "retrieved": 40, "retrieved_of": 100, **config})
    return Language().judge(family, episodes, split, laws_of(episodes[split].spec), config)


def value(judgement, metric, step=-1, seed=0):
    (found,) = [r["value"] for r in judgement.rows if (r["metric"], r["step"], r["seed"]) == (metric, step, seed)]
    return found
