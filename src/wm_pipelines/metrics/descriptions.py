"""What metrics mean that are not functions of a roll-out: of a learned flow, of samples, of language."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Described:
    """What a reader must know of a metric.

    Attributes:
        unit: of the value.
        lower_is_better: which way is good; None: there is no better or worse.
        description: what it means, in plain words.
    """

    unit: str
    lower_is_better: bool | None
    description: str


FLOW_METRICS: dict[str, Described] = {
    "force_error": Described(
        "1",
        True,
        "How far the rate of change of the momenta that a model predicts at held-out states is from the true law, "
        "relative to the root mean square of the true one: 1 for a model without any force. States at an impact are "
        "left out.",
    ),
    "force_exponent": Described(
        "1",
        None,
        "Exponent of the distance in the pair force that fits a model's predictions best, over the distances that "
        "occur. Softened forces have no single exponent: compare it with that of the truth, the oracle's.",
    ),
    "force_exponent_error": Described(
        "1", True, "Distance of that exponent from the one found in the same way in the true forces at the same states."
    ),
    "symplecticity_error": Described(
        "1",
        True,
        "‖JᵀΩJ − Ω‖ / ‖Ω‖ of one predicted step, J its Jacobian: zero for a Hamiltonian flow, and also for “nothing "
        "changes”.",
    ),
    "reversal_error": Described(
        "1",
        True,
        "Predict, turn the momenta round, predict as long again, turn them back: how far from the start that ends, in "
        "units of how far the true state ranges. Zero for a reversible law, and also for “nothing changes”.",
    ),
}
"""Metrics of the flow that a model has learned, asked at held-out states; `flow` and `pair_force` define them."""


SAMPLE_METRICS: dict[str, Described] = {
    "diversity": Described(
        "1",
        None,
        "How far sampled futures spread, over starts and samples together, beside how far the true futures of the same "
        "starts do, on average over time and the entries of the state: 1 as in the data, 0 where nothing moves.",
    ),
    "sample_spread": Described(
        "1",
        None,
        "How far sampled futures of one start lie apart, in the same units. A world without chance has 0: there it "
        "says how unsure a model is.",
    ),
}
"""Metrics of samples, for families that draw them; `samples` defines them."""


_GIVEN_COUNT = "of frames with the right number of objects"

QUESTION_KINDS: dict[str, str] = {
    "colour": "after a colour", "shape": "after a shape", "size": "after a size", "place": "after a place",
    "count": "after a number", "existence": "whether something is there",
    "relation": "where one object is of another",
    "energy": "whether energy is kept", "momentum": "whether momentum is kept between two frames",
    "law": "which law breaks", "frame": "at which frame a law breaks",
    "meeting": "whether bodies meet between two frames", "swing": "whether it swings back",
    "turns": "how often it turns round",
    "own": "of the table",
}  # fmt: skip
"""Kinds of questions that worlds ask, and what their names stand for."""

_RULES = {
    "embedding": "a new one where the predicted embedding has moved", "pixels": "a new one where the pixels have moved",
    "stride": "a new one at regular intervals",
}  # fmt: skip

LANGUAGE_METRICS: dict[str, Described] = {
    "caption_exact_one": Described(
        "1", False, "Share of captions of one object that say all of it: size, colour, shape and place. The caption is "
        "read back to a scene by the grammar, and scenes are compared, never strings."
    ),
    "caption_exact": Described(
        "1", False, "The same of scenes of any number of objects: everything that is there, and nothing else."
    ),
    "caption_exact_up_to_two": Described("1", False, "The same of scenes of one or two objects."),
    "frame_exact_one": Described(
        "1", False, "Share of frames drawn of captions of one object in which a parser without learning reads all that "
        "was asked for: one object of that size, colour and shape, at that place."
    ),
    "frame_exact": Described("1", False, "The same of captions of any number of objects."),
    "frame_exact_two": Described("1", False, "The same of captions of two objects."),
    "caption_exact_chance": Described(
        "1", False, "Exact captions where each is compared with another scene of as many objects: right by chance."
    ),
    "frame_exact_chance": Described("1", False, "The same of frames."),
    **{
        f"caption_{name}": Described("1", False, f"Share of captions with {words}, whatever belongs to what.")
        for name, words in {
            "count": "the right number of objects", "size": "all sizes right", "colour": "all colours right",
            "shape": "all shapes right", "place": "all places right",
        }.items()
    },
    "caption_combination": Described("1", False, "Share of captions in which every colour belongs to its shape."),
    "caption_sentence": Described("1", False, "Share of captions that are sentences of the grammar."),
    "frame_count": Described("1", False, "Share of frames in which the parser finds as many objects as asked for."),
    **{
        f"frame_{name}": Described("1", False, f"Share, {_GIVEN_COUNT}, in which all {name}s are those asked for.")
        for name in ("size", "colour", "shape", "place")
    },
    "frame_combination": Described("1", False, f"Share, {_GIVEN_COUNT}, in which every colour belongs to its shape."),
    "perplexity": Described("1", True, "Of a token of a caption, given its image; 1 where every token is certain."),
    "perplexity_per_byte": Described("1", True, "The same of a byte, which does not depend on the vocabulary."),
    "prior_perplexity": Described("1", True, "Of a token of a caption alone, without the image: the text-only prior."),
    "prior_perplexity_per_byte": Described("1", True, "The same of a byte."),
    "frechet_pixels": Described(
        "1", True, "Frechet distance of drawn and held-out frames, pixels averaged to 8 by 8. Compare it with that of "
        "random training frames, which is real beside real."
    ),
    "frechet_encoder": Described(
        "1", True, "Frechet distance of drawn and held-out frames, of features of a trained encoder that parameters "
        "name. Compare it with that of random training frames."
    ),
    "ms_per_answer": Described("ms", True, "Time of a core that an answer takes, many asked together."),
    "ms_per_caption": Described("ms", True, "Time of a core that a caption takes, many written together."),
    "answer_accuracy": Described(
        "1", False, "Share of questions answered right, of all kinds: the best of all answers that training gives to "
        "questions of that kind."
    ),
    **{
        f"answer_{kind}": Described("1", False, f"The same of questions {words}.")
        for kind, words in QUESTION_KINDS.items()
    },
    "retrieval_r1": Described(
        "1", False, "Share of frames that find their caption first among `retrieval_of` many, all different; "
        "a scene has one caption, so that no other is right."
    ),
    "swapped_attribute": Described(
        "1", False, "Share of frames of two objects or more whose caption fits better than that in which two objects "
        "have exchanged their sizes, colours or shapes: the same words. Chance is one half."
    ),
    "swapped_relation": Described("1", False, "The same where they have exchanged their places."),
    "retrieval_of": Described("1", None, "Captions that a frame looks for its own among."),
    "language_parameters": Described("1", True, "Parameters of all but the encoder, text tower included."),
    "text_parameters": Described("1", None, "Of these, parameters of the text tower; 0 where there is none."),
    "text_spread": Described(
        "1", None, "Spread of the embeddings of texts in units of their size: 0 where all texts are one point."
    ),
    "text_rank": Described("1", None, "Effective rank of the embeddings of texts."),
    "predicted_spread": Described(
        "1", None, "The same of the embeddings that are predicted for the captions of different frames."
    ),
    "predicted_rank": Described("1", None, "Effective rank of these predictions."),
    "scene_changes": Described("1", None, "How often the true caption of a clip changes, per frame."),
    "every_frame_right": Described(
        "1", False, "Share of the frames of clips whose caption, the best of the candidates, is the true one."
    ),
    **{
        key: described
        for name, words in _RULES.items()
        for key, described in (
            (f"decodes_{name}", Described("1", True, f"Captions made per frame of a clip, {words}.")),
            (f"right_{name}", Described("1", False, f"Share of the frames whose caption in force is right, {words}.")),
        )
    },
    "fewer_than_stride": Described(
        "1", False, "How many times as many captions regular intervals take for the same share of right frames as "
        "captions where the embedding has moved. The threshold of these is from other clips, the best interval from "
        "the same ones."
    ),
    "fewer_than_pixels": Described("1", False, "The same of captions made where the pixels have moved."),
    "parser_exact": Described("1", False, "Share of true frames in which the parser reads all that is there."),
    **{
        f"parser_{name}": Described("1", False, f"Share of true frames in which the parser reads all {name}s.")
        for name in ("size", "colour", "shape")
    },
}  # fmt: skip
"""Metrics of captions and of frames drawn of captions; `captions`, `scene_parser` and `distances` define them."""

_RATIOS = ("fewer_than_stride", "fewer_than_pixels")
LANGUAGE_RATES = tuple(n for n, one in LANGUAGE_METRICS.items() if one.lower_is_better is False and n not in _RATIOS)
"""Those that are shares."""
