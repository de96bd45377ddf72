"""Batch normalization under the names of brainstate, by the number of axes of space."""

from .batch_norm import BatchNorm


class BatchNorm0d(BatchNorm):
    """:class:`BatchNorm` of channels without space: `in_size` is (C,), or as `feature_axis` says."""

    num_spatial_dims = 0


class BatchNorm1d(BatchNorm):
    """:class:`BatchNorm` of channels along one axis: `in_size` is (L, C), or as `feature_axis` says."""

    num_spatial_dims = 1


class BatchNorm2d(BatchNorm):
    """:class:`BatchNorm` of channels on a plane: `in_size` is (H, W, C), or as `feature_axis` says."""

    num_spatial_dims = 2


class BatchNorm3d(BatchNorm):
    """:class:`BatchNorm` of channels in a volume: `in_size` is (D, H, W, C), or as `feature_axis` says."""

    num_spatial_dims = 3
