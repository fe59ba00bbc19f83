"""Poses in files of OpenPose and COCO: what is read, what is written, and one line for what is no pose."""

import json

import numpy as np
import pytest

from qwenlab.errors import QwenlabError
from qwenlab.pose.camera import Camera
from qwenlab.pose.condition import draw_condition
from qwenlab.pose.json_files import read_pose, write_coco, write_openpose
from qwenlab.pose.motion import action
from qwenlab.pose.openpose import LIMBS, POINTS, Pose2D, to_openpose

HEAD_AND_ARMS = [0, 1, 2, 3, 4, 5, 6, 7, 14, 15, 16, 17]


@pytest.fixture
def pose():
    return to_openpose(action("挥手"), Camera(yaw=15), (96, 128))


def written(tmp_path, content):
    path = tmp_path / "pose.json"
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return path


def people(points, **more):
    return {"people": [{"pose_keypoints_2d": np.asarray(points, float).flatten().tolist()}]} | more


def canvas(pose):
    return {"canvas_width": pose.size[0], "canvas_height": pose.size[1]}


# What is read


def test_openpose_comes_back_as_it_was_written(tmp_path, pose):
    points = pose.points.copy()
    points[4, 2] = 0
    back = read_pose(write_openpose(tmp_path / "pose.json", Pose2D(points, pose.size)))
    assert back.size == (96, 128) and np.allclose(back.points[back.seen], points[points[:, 2] > 0], atol=0.006)
    assert not back.seen[4] and back.points[4].tolist() == [0, 0, 0] and back.depth is None


def test_coco_comes_back_with_the_neck_between_the_shoulders(tmp_path, pose):
    back = read_pose(write_coco(tmp_path / "pose.json", pose))
    others = [number for number in range(18) if number != 1]
    assert back.size == pose.size and np.allclose(back.points[others], pose.points[others], atol=0.006)
    assert np.allclose(back.points[1, :2], pose.points[[2, 5], :2].mean(0), atol=0.006)
    data = json.loads((tmp_path / "pose.json").read_text())
    data["annotations"][0]["keypoints"][3 * 5 + 2] = 0  # COCO's left shoulder
    half = read_pose(written(tmp_path, data))
    assert not half.seen[POINTS.index("neck")] and not half.seen[POINTS.index("left_shoulder")]


def test_one_annotation_of_coco_needs_the_size(tmp_path, pose):
    write_coco(tmp_path / "pose.json", pose)
    (annotation,) = json.loads((tmp_path / "pose.json").read_text())["annotations"]
    path = written(tmp_path, annotation)
    assert read_pose(path, size=(96, 128)).size == (96, 128)
    with pytest.raises(QwenlabError, match="does not say how large"):
        read_pose(path)


def test_body_25_is_told_by_its_length(tmp_path, pose):
    points = np.zeros((25, 3))
    points[[0, 1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18]] = pose.points
    points[8] = [1, 2, 1]  # the middle of the hips, which COCO's 18 points do not have
    back = read_pose(written(tmp_path, people(points)), size=pose.size)
    assert np.allclose(back.points, pose.points, atol=1e-4)


def test_shares_of_the_picture_become_pixels(tmp_path, pose):
    shares = pose.points / [96, 128, 1]
    shares[4, 0] = 1.2  # a hand outside
    back = read_pose(written(tmp_path, people(shares, **canvas(pose))))
    assert np.allclose(back.points[:4], pose.points[:4], atol=1e-4) and back.points[4, 0] == pytest.approx(1.2 * 96)


def test_a_list_of_frames_and_utf_16_are_read(tmp_path, pose):
    content = json.dumps([people(pose.points, **canvas(pose))])
    for encoding in ("utf-8", "utf-16"):
        assert np.allclose(read_pose(written(tmp_path, content.encode(encoding))).points, pose.points, atol=1e-3)


def test_half_a_person_is_a_pose(tmp_path, pose):
    points = np.zeros((18, 3))
    points[HEAD_AND_ARMS] = pose.points[HEAD_AND_ARMS]
    points[4, :2] = [130, -5]  # the raised hand is outside
    back = read_pose(written(tmp_path, people(points, **canvas(pose))))
    assert back.seen.sum() == 12
    picture = np.asarray(draw_condition(back))
    assert picture[:80].max() > 100 and picture[90:].max() == 0, "no legs are made up"


def test_the_size_of_a_file_goes_before_that_of_the_caller(tmp_path, pose):
    path = written(tmp_path, people(pose.points, **canvas(pose)))
    assert read_pose(path, size=(1000, 1000)).size == (96, 128)


# What is refused

GOOD = np.stack([np.linspace(10, 80, 18), np.linspace(90, 20, 18), np.ones(18)], 1)
SIZE = {"canvas_width": 96, "canvas_height": 128}


def with_point(index, values):
    points = GOOD.copy()
    points[index] = values
    return people(points, **SIZE)


BAD = {
    "broken": (b'{"people": [', "no JSON .line 1, column 13"),
    "empty": (b"", "no JSON"),
    "picture": (b"\x89PNG\r\n\x1a\n" + bytes(64), "this is a PNG picture"),
    "nested": (b"[" * 100000, "no JSON"),
    "other bytes": (b"\xff\xfe\xfa\x00\x81", "no JSON"),
    "nobody": ({"people": []} | SIZE, '"people" is empty'),
    "no people": ({"points": []}, 'neither "people"'),
    "number": (5, 'neither "people"'),
    "person": ({"people": [7]} | SIZE, "holds no person, but int"),
    "no list": ({"people": [{}]} | SIZE, 'no list "pose_keypoints_2d"'),
    "order of Body-135": (people(np.ones((135, 3)), **SIZE), "405 numbers, and 54 or 75 are needed: .* another order"),
    "order of 17": (people(np.ones((17, 3)), **SIZE), "51 numbers, and 54 or 75"),
    "COCO of 18": ({"keypoints": [1.0] * 54} | SIZE, "54 numbers, and 51 are needed"),
    "text": ({"people": [{"pose_keypoints_2d": ["1"] * 54}]} | SIZE, "no number"),
    "NaN": (with_point(4, [np.nan, 3, 1]), "right_wrist: .* is no place"),
    "infinite": (with_point(9, [np.inf, 3, 1]), "right_knee: .* is no place"),
    "digits": (b'{"people": [{"pose_keypoints_2d": [' + b"9" * 500 + b", 1" * 53 + b"]}]}", "hundreds of digits"),
    "all missing": (people(GOOD * [1, 1, 0], **SIZE), "all points are missing"),
    "one point": (people(GOOD * np.eye(18)[3][:, None], **SIZE), "only right_elbow"),
    "outside": (people(GOOD + [500, 0, 0], **SIZE), "outside its picture of 96 x 128"),
    "no length": (with_point(4, GOOD[3]), "right_elbow and right_wrist are in one place"),
    "no size": (people(GOOD), "does not say how large"),
    "size": (people(GOOD, canvas_width=0, canvas_height=-4), "picture of 0 x -4 pixels"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_pose_costs_one_line(tmp_path, name):
    content, said = BAD[name]
    path = written(tmp_path, content)
    with pytest.raises(QwenlabError, match=said) as refused:
        read_pose(path)
    assert str(refused.value).startswith(f"{path}: ") and "\n" not in str(refused.value)


def test_the_pose_beside_the_bad_ones_is_good(tmp_path):
    assert read_pose(written(tmp_path, people(GOOD, **SIZE))).seen.all()


def test_a_missing_file_and_a_huge_one(tmp_path):
    with pytest.raises(QwenlabError, match="cannot be read"):
        read_pose(tmp_path / "nowhere.json")
    with pytest.raises(QwenlabError, match="larger than 8 MiB"):
        read_pose(written(tmp_path, b" " * (8 * 2**20 + 1)))


@pytest.mark.parametrize(
    ("points", "size", "depth", "said"),
    [
        (GOOD[:17], (96, 128), None, "18, 3. is needed"),
        (GOOD * np.nan, (96, 128), None, "nose: .* is no place"),
        (GOOD, (0, 128), None, "at least 1 pixel"),
        (GOOD, (96, 128), np.ones(17), "18 finite numbers"),
        (GOOD, (96, 128), np.full(18, np.inf), "18 finite numbers"),
    ],
)
def test_points_made_by_hand_are_checked(points, size, depth, said):
    with pytest.raises(QwenlabError, match=said):
        Pose2D(points, size, depth)


def test_limbs_join_neighbours():
    assert len(LIMBS) == 17 and {point for limb in LIMBS for point in limb} == set(range(18))
    assert [POINTS[b] for a, b in LIMBS if POINTS[a] == "right_elbow"] == ["right_wrist"]
