"""What the simulated shop takes from recorded logs, and what it assumes because no public log tells.

`python -m tests.shop.calibrate FOLDER` computes the figures of the first part from the files that are named; a test
compares them. Kinds stand in the order product view, cart addition, favourite, purchase. A session ends with half an
hour of silence.
"""

# --- taobao_users.csv.gz: 48,602 events of 493 Taobao users, 2017-11-25 to 12-03 ---

KIND_COUNTS = (43458, 2573, 1561, 1010)
"""Events by kind."""

FIRST_KINDS = (7308, 457, 263, 296)
"""Sessions by the kind of their first event."""

NEXT_KINDS = ((33117, 1721, 937, 569), (1642, 341, 29, 23), (951, 30, 321, 10), (440, 24, 11, 112))
"""Within sessions: how often each kind (row) was followed by each kind."""

QUANTILES = (*(i / 20 for i in range(20)), 0.99, 1.0)
"""Where the following quantile tables are taken."""

SESSION_EVENTS = (1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 3, 3, 4, 5, 6, 7, 8, 11, 14, 21, 40, 95)
"""Quantiles of the number of events of a session."""

GAP_S = (0, 6, 10, 14, 17, 22, 27, 33, 39, 47, 55, 66, 79, 94, 114, 141, 179, 241, 351, 611, 1360, 1800)
"""Quantiles of the seconds between two events of a session."""

VISITS_9D = (3, 5, 6, 8, 8, 9, 10, 12, 13, 14, 14, 16, 17, 19, 20, 22, 24, 27, 30, 37, 55, 58)
"""Quantiles of the number of a user's sessions in the nine days."""

VISITS_9D_MEAN = 16.884

SAME_CATEGORY = 0.476
"""Share of events in a session whose category is that of the event before."""

BOUGHT_SEEN_IN_SESSION = 0.403
"""Share of purchases whose product was seen earlier in the session ..."""

BOUGHT_SEEN_BEFORE = 0.611
"""... and earlier by the user, in this session or one before."""

BUYERS_9D = 0.669
"""Share of the users who bought something."""

BUYS_9D_VARIANCE_TO_MEAN = 3.41
"""Of the users' numbers of purchases: 1 if all were alike."""

HOUR_EVENTS = (
    *(1792, 877, 332, 170, 253, 339, 643, 1148, 1670, 1892, 2135, 2154),
    *(1948, 2295, 2492, 2684, 2447, 2326, 2376, 3403, 4078, 4325, 3872, 2951),
)
"""Events by hour of the day, local time."""

# --- rees46_views.csv.gz: 10,093 views with a price ---

PRICE_MINOR = (
    *(105, 1799, 2951, 3859, 4854, 5918, 7253, 9112, 10888, 13076, 15442, 17939),
    *(21648, 25482, 28984, 36008, 43578, 53538, 73981, 98154, 174779, 257404),
)
"""Quantiles of the prices viewed."""

# --- completejourney_campaigns.csv.gz, completejourney_coupon_redemptions.csv.gz ---

TARGETED = 6589
"""Pairs of a household and a campaign that it got."""

REDEEMED = 792
"""Of these: a coupon of the campaign was redeemed."""

# --- assumed: no public log joins browsing with coupons ---

NOTICES = 0.4
"""Chance that a customer notices an offer. Chosen so that offers to all, valid for a day, are redeemed as often as
completejourney's campaigns: REDEEMED / TARGETED. A test simulates it."""

DEPTH_RESPONSE = ((0.0, 0.05, 0.1, 0.2, 0.3, 1.0), (0.0, 0.6, 1.0, 1.6, 2.0, 2.5))
"""Depth of a discount, as a share of the price, to how much it moves a customer; 10 % is 1. Monotone."""

MARGIN = 0.3
"""Of the list price: unit costs are the rest."""

SHIPPING_MINOR = 490
"""What free shipping and the like are worth to a customer."""

DISMISSES = 0.15
"""Chance that an offer that was noticed and not taken is dismissed."""

CONSENTS, REFUSES, OBJECTS = 0.92, 0.05, 0.02
"""Customers who consent to profiling, who refuse it (the rest was not asked), and who object to it."""

OPENS_WITH_SEARCH, SEARCH_FINDS_NOTHING = 0.25, 0.05
OPENS_WITH_PAGE = 0.3
CHECKOUT_BEFORE_ORDER, CHECKOUT_ABANDONED = 0.7, 0.05
CANCELS, RETURNS, RATES, COMPLAINS = 0.01, 0.05, 0.1, 0.01
