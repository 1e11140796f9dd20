"""Memory of the GPU that graphs run on, as its driver counts it: onnxruntime does not tell what it holds."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Mapping

from service.metrics import Metrics

logger = logging.getLogger("voisin")


def watch_device(metrics: Metrics) -> None:
    """Let `voisin_device_memory_bytes` be read from NVML, for the device that CUDA calls 0.

    That is what is in use on the whole device, whoever uses it: in a container the driver knows processes by
    other numbers than ours. Without the library (extra `gpu`) or the driver there is no sample, and the log
    says why.
    """
    try:
        import pynvml
    except ImportError:
        logger.warning("GPU memory is not measured: nvidia-ml-py is not installed")
        return
    try:
        pynvml.nvmlInit()
        name = first_visible(os.environ)
        handle = (
            pynvml.nvmlDeviceGetHandleByIndex(int(name))
            if name.isdigit()
            else pynvml.nvmlDeviceGetHandleByUUID(name)
        )
        uuid = pynvml.nvmlDeviceGetUUID(handle)
        pynvml.nvmlDeviceGetMemoryInfo(handle)
    except pynvml.NVMLError as error:
        logger.warning("GPU memory is not measured", extra={"data": {"reason": str(error)}})
        return

    def used() -> float:
        try:
            return float(pynvml.nvmlDeviceGetMemoryInfo(handle).used)
        except pynvml.NVMLError:  # the device has gone: no number is better than an old one
            return math.nan

    metrics.device_memory.labels(uuid).set_function(used)


def first_visible(environ: Mapping[str, str]) -> str:
    """What NVML calls the device that CUDA calls 0: an index, or a UUID.

    NVML does not read CUDA_VISIBLE_DEVICES. Where GPUs of several kinds are in one machine, CUDA counts them
    in another order, unless CUDA_DEVICE_ORDER is PCI_BUS_ID.
    """
    return environ.get("CUDA_VISIBLE_DEVICES", "").split(",")[0].strip() or "0"
