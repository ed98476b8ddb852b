"""Class features and the joint head."""

import torch
import torch.nn.functional as F

from knots.models.clip import Clip
from knots.models.heads import build_heads, class_features
from tests.miniatures import tiny_suite


def test_class_features_are_the_mean_over_templates(clip: Clip):
    templates = ("a {} texture", "the {} texture", "a photo of the {}")
    features = class_features(clip.encode_text, ["red", "dots"], templates)
    for row, name in zip(features, ["red", "dots"], strict=True):
        each = torch.stack([clip.encode_text([template.replace("{}", name)])[0] for template in templates])
        torch.testing.assert_close(row, F.normalize(each.mean(dim=0), dim=0))


def test_joint_head_takes_each_class_with_its_own_templates(clip: Clip):
    suite = tiny_suite()
    heads = build_heads(clip, suite)
    assert heads.joint.shape == (7, 12)
    assert heads.joint.isfinite().all()
    expected = torch.cat(
        [
            class_features(clip.encode_text, [name], templates)
            for name, templates in zip(heads.labels.names, heads.labels.templates, strict=True)
        ]
    )
    torch.testing.assert_close(heads.joint, expected)
    for features, mapping in zip(heads.tasks, heads.labels.local_to_joint, strict=True):
        torch.testing.assert_close(heads.joint[mapping], features)


def test_moving_heads_keeps_them(clip: Clip):
    heads = build_heads(clip, tiny_suite())
    assert torch.equal(heads.to("cpu").joint, heads.joint)
