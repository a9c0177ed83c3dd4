"""Which versions are loaded and which one serves: pure decisions."""

from hypothesis import given
from hypothesis import strategies as st

from server.model_config import ModelConfig
from server.repository.layout import natural_sorted
from server.repository.policy import effective_labels, labels_of, wanted_versions
from server.repository.state_file import DesiredState

PRESENT = ["1", "2", "10"]


def config(**sections: object) -> ModelConfig:
    return ModelConfig.model_validate(sections)


def wanted(body: ModelConfig | None = None, *, explicit: bool = False, **state: object):
    desired = DesiredState.model_validate(state)
    return wanted_versions(PRESENT, body or config(), desired, explicit=explicit)


def test_the_newest_version_is_served_by_default():
    assert wanted() == wanted_versions(PRESENT, config(), DesiredState(), explicit=False)
    assert wanted().versions == ("10",) and wanted().target == "10"


def test_policies():
    assert wanted(config(version_policy={"latest": 2})).versions == ("2", "10")
    assert wanted(config(version_policy="all")).versions == ("1", "2", "10")
    specific = wanted(config(version_policy={"specific": ["2", "1", "77"]}))
    assert specific.versions == ("1", "2") and specific.target == "2"


def test_labels_keep_versions_loaded_but_do_not_move_the_default():
    both = wanted(config(version_labels={"stable": "1"}))
    assert both.versions == ("1", "10") and both.target == "10"
    assert wanted(labels={"canary": "2"}).versions == ("2", "10")


def test_a_label_set_while_serving_overrides_model_toml_and_may_hide_it():
    body = config(version_labels={"stable": "1", "old": "1"})
    state = DesiredState(labels={"stable": "2", "old": None})
    assert effective_labels(body, state) == {"stable": "2"}
    assert labels_of("2", {"b": "2", "a": "2", "c": "1"}) == ("a", "b")


def test_a_pinned_version_serves_while_the_policy_goes_on():
    pinned = wanted(pinned="1")
    assert pinned.versions == ("1", "10") and pinned.target == "1"
    assert wanted(pinned="gone").target == "10"


def test_versions_loaded_on_request_stay_beside_the_policys():
    assert wanted(versions=("1",)).versions == ("1", "10")
    assert wanted(versions=("1",)).target == "10"


def test_unloaded_versions_are_as_if_they_were_not_there():
    assert wanted(excluded=("10",)).target == "2"
    assert wanted(excluded=("10",), pinned="10").target == "2"
    assert wanted(excluded=tuple(PRESENT)).versions == ()
    assert wanted(loaded=False, pinned="1").versions == ()


def test_explicit_control_loads_only_what_was_asked_for():
    assert wanted(explicit=True).versions == ()
    assert wanted(explicit=True, versions=("2",)).versions == ()
    asked = wanted(explicit=True, loaded=True, versions=("1", "2"))
    assert asked.versions == ("1", "2") and asked.target == "2"


versions = st.lists(st.sampled_from(["1", "2", "3", "10", "v1"]), unique=True, max_size=5)
states = st.builds(
    DesiredState,
    loaded=st.none() | st.booleans(),
    versions=versions.map(tuple),
    excluded=versions.map(tuple),
    pinned=st.none() | st.sampled_from(["1", "2", "77"]),
    labels=st.dictionaries(st.sampled_from("ab"), st.none() | st.sampled_from(["1", "3"])),
)


@given(versions, states, st.booleans(), st.sampled_from(["all", {"latest": 1}, {"latest": 3}]))
def test_only_what_is_there_is_wanted_and_the_target_is_part_of_it(
    present: list[str], desired: DesiredState, explicit: bool, policy: object
):
    found = wanted_versions(
        natural_sorted(present), config(version_policy=policy), desired, explicit=explicit
    )
    assert set(found.versions) <= set(present) - set(desired.excluded)
    assert list(found.versions) == natural_sorted(found.versions)
    assert (found.target is None) == (found.versions == ())
    assert found.target is None or found.target in found.versions
