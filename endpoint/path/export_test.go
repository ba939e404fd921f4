package path

// For the tests that need package link, which imports this one.
var CheckLeaks, GroupPair = checkLeaks, groupPair
