"""What a Hugging Face export says about generating, as a `Search`."""

from __future__ import annotations

import pytest

from server.execution import Search
from server.model_config import GenerationConfig
from server.repository.generation_settings import GenerationInvalid, generation_settings

MARIAN = {
    "decoder_start_token_id": 58100,
    "eos_token_id": 0,
    "forced_eos_token_id": 0,
    "bad_words_ids": [[58100]],
    "max_length": 512,
    "num_beams": 6,
}
NOTHING = GenerationConfig()


def test_a_marian_config_from_before_generation_configs():
    found = generation_settings({**MARIAN, "is_encoder_decoder": True}, None, NOTHING, 1024)
    assert found.search == Search(
        start=58100,
        end=(0,),
        max_new_tokens=511,
        beams=6,
        bad_words=((58100,),),
        forced_last=0,
        top_k=50,
    )
    assert found.notes == ()


def test_a_generation_config_replaces_what_config_json_chooses_but_not_its_facts():
    config = {"num_beams": 6, "length_penalty": 2.0, "decoder_start_token_id": 7, "eos_token_id": 9}
    found = generation_settings(config, {"num_beams": 2}, NOTHING, 100).search
    assert (found.beams, found.length_penalty, found.start, found.end) == (2, 1.0, 7, (9,))


def test_every_word_is_followed():
    generation = {
        "decoder_start_token_id": 1,
        "eos_token_id": [2, 3],
        "max_new_tokens": 20,
        "min_length": 5,
        "early_stopping": "never",
        "repetition_penalty": 1.2,
        "no_repeat_ngram_size": 3,
        "suppress_tokens": [8],
        "forced_bos_token_id": 4,
        "forced_eos_token_id": [2],
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 5,
        "top_p": 0.9,
        "length_penalty": 0.6,
    }
    assert generation_settings({}, generation, NOTHING, 100).search == Search(
        start=1,
        end=(2, 3),
        max_new_tokens=20,
        min_new_tokens=4,
        early_stopping="never",
        repetition_penalty=1.2,
        no_repeat_ngram=3,
        suppressed=(8,),
        forced_first=4,
        forced_last=2,
        sample=True,
        temperature=0.7,
        top_k=5,
        top_p=0.9,
        length_penalty=0.6,
    )


def test_model_toml_wins_and_the_slots_bound():
    own = GenerationConfig(beams=2, max_new_tokens=500, early_stopping=True)
    found = generation_settings(MARIAN, None, own, 64).search
    assert (found.beams, found.max_new_tokens, found.early_stopping) == (2, 63, True)


def test_the_beginning_may_be_the_bos_token():
    found = generation_settings({"bos_token_id": 3, "eos_token_id": 2}, None, NOTHING, 64)
    assert found.search.start == 3 and found.search.max_new_tokens == 63


def test_what_is_not_followed_is_noted():
    asked = {**MARIAN, "num_beam_groups": 2, "diversity_penalty": 0.0, "typical_p": 0.5}
    notes = generation_settings(asked, None, NOTHING, 64).notes
    assert notes == ("num_beam_groups = 2 is not followed", "typical_p = 0.5 is not followed")


def test_beams_may_be_sampled():
    found = generation_settings({**MARIAN, "do_sample": True}, None, NOTHING, 64)
    assert (found.search.sample, found.search.beams) == (True, 6) and not found.notes
    alone = generation_settings({**MARIAN, "do_sample": True}, None, GenerationConfig(beams=1), 64)
    assert alone.search.sample and not alone.notes


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"decoder_start_token_id": None}, "decoder_start_token_id"),
        ({"eos_token_id": None}, "eos_token_id: expected the token that ends"),
        ({"eos_token_id": "x"}, "eos_token_id"),
        ({"eos_token_id": [0, -1]}, "eos_token_id"),
        ({"num_beams": 0}, "num_beams: expected an integer of at least 1"),
        ({"num_beams": True}, "num_beams"),
        ({"num_beams": 2.5}, "num_beams"),
        ({"max_length": "long"}, "max_length"),
        ({"bad_words_ids": [[]]}, "bad_words_ids"),
        ({"bad_words_ids": [1]}, "bad_words_ids"),
        ({"temperature": 0}, "temperature: expected a number above 0"),
        ({"length_penalty": float("inf")}, "length_penalty"),
        ({"length_penalty": float("nan")}, "length_penalty"),
        ({"do_sample": "yes"}, "do_sample"),
        ({"early_stopping": "soon"}, "early_stopping"),
        ({"min_new_tokens": 600}, "min_new_tokens: expected at most"),
    ],
)
def test_what_cannot_be_followed_is_told(change: dict, words: str):
    with pytest.raises(GenerationInvalid, match=words):
        generation_settings({**MARIAN, **change}, None, NOTHING, 128)
