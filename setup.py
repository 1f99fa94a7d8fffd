import configparser, setuptools

ini = configparser.ConfigParser(); ini.read("settings.ini", encoding="utf-8"); ini = ini["DEFAULT"]
needs = {key: ini[f"{key}_requirements"].split() for key in ("speech", "course", "tensorflow", "dev")}
setuptools.setup(version=ini["version"], install_requires=ini["requirements"].split(),
                 extras_require=needs | {"course": needs["speech"] + needs["course"],
                                         "dev": needs["speech"] + needs["course"] + needs["dev"]})
