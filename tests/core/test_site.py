"""Sites: what is read is what is written, and every mistake is one sentence."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shammie.core import site as sites
from shammie.core.errors import SiteError
from shammie.core.site import KINDS, Site, parse_sites

LENS = {
    "hook_resid_pre": "residual_in",
    "hook_resid_post": "residual",
    "hook_attn_out": "attention_out",
    "hook_mlp_out": "mlp_out",
    "mlp.hook_post": "neurons",
}


@st.composite
def any_site(draw: st.DrawFn) -> Site:
    kind = draw(st.sampled_from(list(KINDS)))
    layer = None if kind == "embedding" else draw(st.integers(0, 200))
    experts = draw(st.lists(st.integers(0, 127), min_size=1, max_size=4)) if kind == "expert_neurons" else []
    return Site(kind, layer, tuple(experts))


@given(any_site(), st.sampled_from(["", " ", "\n"]))
def test_text_round_trip(site: Site, blank: str) -> None:
    assert Site.parse(blank + str(site) + blank) == site


@given(any_site(), any_site())
def test_text_tells_sites_apart(left: Site, right: Site) -> None:
    assert (str(left) == str(right)) == (left == right)


@given(st.sampled_from(list(LENS)), st.integers(0, 200))
def test_transformer_lens_names(name: str, layer: int) -> None:
    assert Site.parse(f"blocks.{layer}.{name}") == Site(LENS[name], layer)


def test_embedding_names() -> None:
    assert Site.parse("hook_embed") == Site.parse("embedding") == sites.embedding()


def test_short_names_are_the_kinds() -> None:
    for kind in set(KINDS) - {"embedding", "expert_neurons"}:
        assert getattr(sites, kind)(3) == Site(kind, 3) == Site.parse(f"{kind}:3")
    assert sites.expert_neurons(3, [0, 5]) == Site("expert_neurons", 3, (0, 5))  # type: ignore[arg-type]


@given(st.lists(any_site(), min_size=1, max_size=5), st.integers(1, 5))
def test_lists(chosen: list[Site], layers: int) -> None:
    assert parse_sites("  ".join(map(str, chosen)), layers) == list(dict.fromkeys(chosen))
    every = parse_sites("residual:* embedding residual:0", layers)
    assert every == [*(Site("residual", layer) for layer in range(layers)), Site("embedding")]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("residul:3", "unknown site kind 'residul'.*did you mean 'residual'"),
        ("nonsense", "unknown site kind 'nonsense'"),
        ("", "unknown site kind ''"),
        ("residual", "'residual' needs a layer, such as residual:0"),
        ("residual:", "needs a layer"),
        ("embedding:0", "'embedding' takes no layer"),
        ("residual:three", "'residual:three' is not of the form kind:layer"),
        ("residual:1.5", "is not of the form"),
        ("residual:1:2", "other sites take none"),
        ("neurons:0:a", "is not of the form"),
        ("expert_neurons:0", "needs experts, such as expert_neurons:3:0,5"),
        ("expert_neurons:0:", "needs experts"),
        ("blocks.3.hook_z", "of the TransformerLens names only hook_resid_pre"),
        ("blocks.x.hook_mlp_out", "unknown site kind"),
    ],
)
def test_refusals(text: str, said: str) -> None:
    with pytest.raises(SiteError, match=said) as caught:
        Site.parse(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no site was named"),
        ("   ", "no site was named"),
        ("embedding:*", "takes no layer"),
        ("nothing:*", "unknown"),
    ],
)
def test_list_refusals(text: str, said: str) -> None:
    with pytest.raises(SiteError, match=said):
        parse_sites(text, 3)
