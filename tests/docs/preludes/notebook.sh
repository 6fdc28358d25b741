# A notebook with one cell.
printf '{"cells": [{"cell_type": "code", "id": "a", "metadata": {}, "outputs": [], "execution_count": null, "source": "print(1)"}],' > train.ipynb
printf '"metadata": {"language_info": {"name": "python", "file_extension": ".py"}}, "nbformat": 4, "nbformat_minor": 5}' >> train.ipynb
