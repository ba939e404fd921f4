// Package lint holds the rules about the tree as tests: who may import whom, and what no code here does. Each message says what to do instead.
package lint
