"""What pyproject.toml cannot say: the modules in C, without which everything works, too."""

from setuptools import Extension, setup


def extension(name: str, *sources: str) -> Extension:
    """A module that is left out where there is no compiler, or no Python headers: Python does its work then."""
    return Extension(
        f"shadowset.nbd_provider.{name}",
        [f"nbd_provider/{source}" for source in sources],
        define_macros=[("Py_LIMITED_API", "0x030b0000")],
        extra_compile_args=["-O2", "-g0", "-Werror=implicit-function-declaration"],
        py_limited_api=True,
        optional=True,
    )


MODULES = [
    extension("store._resident", "store/resident.c", "store/bus_errors.c", "store/copy_reads.c", "store/copy_send.c"),
    extension("_plain_writes", "plain_writes.c"),
    extension("_random_reads", "random_reads.c"),
]

setup(ext_modules=MODULES, options={"bdist_wheel": {"py_limited_api": "cp311"}})
