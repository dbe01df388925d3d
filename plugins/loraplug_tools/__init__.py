"""The commands around a run: recipes, plugins, previews and plans, past runs, and the doctor."""
