"""The tests of the shop, to copy from: `test_shop` without a broker, `test_shop_end_to_end` with real processes."""
