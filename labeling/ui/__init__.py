"""The pages: the only home of Gradio. Views call services; services never import this package."""
