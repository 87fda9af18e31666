"""Tests of the whole product. A package, so that fixtures of scope `package` end with the last of these tests."""
