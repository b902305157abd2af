"""One page of a run in one HTML file that needs no network, and the same in Markdown: `neuronxa page`."""
