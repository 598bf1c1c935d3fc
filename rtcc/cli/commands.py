"""Every command, imported so that it registers itself with the application."""

from rtcc.cli import bench as bench
from rtcc.cli import bisect as bisect
from rtcc.cli import compile as compile
from rtcc.cli import demo as demo
from rtcc.cli import distill as distill
from rtcc.cli import doctor as doctor
from rtcc.cli import info as info
from rtcc.cli import listing as listing
from rtcc.cli import opt as opt
from rtcc.cli import prune as prune
from rtcc.cli import quantize as quantize
from rtcc.cli import run as run
from rtcc.cli import tune as tune
