"""What pyproject.toml cannot say: the one module in C, without which everything works, too."""

from setuptools import Extension, setup

RESIDENT = Extension(
    "shadowset.nbd_provider.store._resident",
    ["nbd_provider/store/resident.c"],
    define_macros=[("Py_LIMITED_API", "0x030b0000")],
    extra_compile_args=["-O2", "-g0"],
    py_limited_api=True,
    optional=True,  # no compiler, no Python headers: all reads are done in Python
)

setup(ext_modules=[RESIDENT], options={"bdist_wheel": {"py_limited_api": "cp311"}})
