"""What recipes share: data sets, augmentation, checkpoints, export, packaging and reports.

`data`, `package` and `report` need numpy and pillow only; every other module needs torch.
"""
