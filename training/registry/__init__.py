"""The registry's writing side: journal, gate, publishing and `headway models`."""
