"""A body in 3D, and the skeleton pictures that tell a model what pose to draw.

`body` holds 24 joints and turns rotations into places, `limits` says how far they turn, `motion` has the ten actions of
the drawn world and a walk. `camera` and `openpose` bring a body into a picture as OpenPose's 18 points, `json_files`
reads and writes them. `condition` draws the skeleton that a pose net is shown, with depth or without; `mannequin`
draws the body itself and turns it, and `studio` is a page of sliders that bend it.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submod_attrs={
        "body": ["Body", "blend", "forward_kinematics"],
        "camera": ["Camera"],
        "condition": ["draw_condition"],
        "json_files": ["read_pose", "write_coco", "write_openpose"],
        "mannequin": ["draw_mannequin", "turntable", "walk_cycle"],
        "motion": ["action", "walk"],
        "openpose": ["Pose2D", "to_openpose"],
        "studio": ["PoseStudio"],
    },
)
