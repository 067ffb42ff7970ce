"""Sources of images, frozen splits, samplers and augmentation."""
