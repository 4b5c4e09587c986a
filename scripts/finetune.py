"""What each worker runs (`distributed.script`); the same as the command `llm-finetune`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from llm_finetune.cli.main import main

if __name__ == "__main__":
    main()
