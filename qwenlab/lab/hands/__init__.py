"""Training of the networks for hands and feet of the drawn world, and what only experiments with them need.

`melt` and `redrawn` make wrong examples in the way of models, `train_finder`, `train_pose_net` and `train_form_net`
train the networks of `qwenlab.hands`, `latent_critic` is a rival of the structure loss, `score` watches for pleasing.
"""
