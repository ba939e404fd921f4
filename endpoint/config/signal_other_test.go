//go:build !unix

package config

func ignoreTerm() {}
