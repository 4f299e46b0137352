"""python -m kilter.cli"""

from kilter.cli import main

main()
