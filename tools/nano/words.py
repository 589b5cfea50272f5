"""The word lists that dialogues are made of, those for training and those held out for evaluation.

No word of `HELD_OUT` is ever in a training dialogue: `tests/nano/test_nano_data.py` looks.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Words:
    """One set of words.

    Attributes:
        names: first names.
        towns: names of towns.
        jobs: what a person does, one or two words.
        agents: the second word of a made-up job ("lantern maker").
        traits: adjectives for a person.
        looks: adjectives for a thing or a place.
        things: nouns in the plural.
        stuff: nouns in the singular, for the first word of a job or the name of a place.
        sites: geographical nouns.
        doings: gerunds.
        fragments: what some invented words are made of, in lower case.
    """

    names: tuple[str, ...]
    towns: tuple[str, ...]
    jobs: tuple[str, ...]
    agents: tuple[str, ...]
    traits: tuple[str, ...]
    looks: tuple[str, ...]
    things: tuple[str, ...]
    stuff: tuple[str, ...]
    sites: tuple[str, ...]
    doings: tuple[str, ...]
    fragments: tuple[str, ...] = ()


def _split(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.replace("\n", " ").split(",") if part.strip())


TRAINING = Words(
    names=_split("""
        Ada, Alan, Alice, Amir, Anna, Anton, Arthur, Astrid, Ben, Bianca, Boris, Bruno, Carla, Carmen, Cecil, Chloe,
        Clara, Conrad, Dana, Daniel, David, Diego, Dora, Edgar, Edith, Elena, Eli, Emil, Emma, Enzo, Erik, Esther, Eva,
        Felix, Fiona, Frank, Freya, George, Gina, Grace, Greta, Gustav, Hana, Hans, Harold, Hazel, Helen, Henry, Hugo,
        Ida, Igor, Ines, Iris, Isaac, Ivan, Jack, Jana, Jonas, Jorge, Josef, Julia, Kai, Karl, Kenji, Kira, Klara,
        Lars, Laura, Lea, Leo, Lila, Linus, Lucia, Luis, Lukas, Mabel, Malik, Marco, Maria, Martin, Mary, Max, Mei,
        Milo, Mina, Mira, Nadia, Naomi, Nils, Nina, Noah, Nora, Olaf, Olga, Oliver, Omar, Oscar, Otto, Pablo, Paul,
        Petra, Pia, Pierre, Rahul, Ravi, Rita, Robert, Rosa, Ruth, Sam, Sara, Selma, Simon, Sofia, Stella, Sven,
        Tara, Theo, Thomas, Tim, Tom, Uma, Ursula, Vera, Victor, Viola, Walter, Wanda, Will, Yara, Yuki, Yusuf, Zara,
        Zoe, Bob, Lucky, Pete, John, Kate, Peter, Jane, James, Lisa, Steven, Sarah, Andrew, Nicholas, Emily, William
    """),
    towns=_split("""
        Paris, Lisbon, Oslo, Vienna, Madrid, Dublin, Cairo, Lima, Prague, Athens, Bergen, Bristol, Cork, Dover,
        Geneva, Hamburg, Kyoto, Lagos, Leeds, Lyon, Malmo, Milan, Nairobi, Naples, Osaka, Porto, Quito, Riga, Rome,
        Seville, Tallinn, Tunis, Turin, Utrecht, Venice, Warsaw, York, Zurich, London, Berlin, Boston, Chicago, Delhi
    """),
    jobs=_split("""
        actor, apothecary, archer, artist, astronomer, baker, barber, beekeeper, blacksmith, bookbinder, botanist,
        brewer, builder, bus driver, butcher, captain, carpenter, cartographer, chemist, clerk, clockmaker, cobbler,
        composer, cook, dancer, dentist, detective, diver, doctor, drummer, editor, electrician, engineer, explorer,
        farmer, ferryman, fiddler, fisherman, florist, gardener, geologist, glazier, guard, guide, hatter, herbalist,
        historian, hunter, illustrator, inventor, jeweller, judge, juggler, knight, lighthouse keeper, librarian,
        locksmith, magician, mason, mechanic, merchant, messenger, miller, miner, monk, musician, nurse, office clerk,
        optician, painter, pharmacist, philosopher, photographer, pianist, pilot, pirate, plumber, poet, potter,
        printer, queen, ranger, reporter, roofer, sailor, scholar, scientist, sculptor, shepherd, singer, smith,
        soldier, spy, surgeon, tailor, tanner, teacher, thatcher, train driver, translator, umbrella maker, usher,
        waiter, watchman, weaver, wizard, writer, zookeeper, assistant, robot, student, chef, king, programmer
    """),
    agents=_split("""
        maker, keeper, seller, hunter, painter, mender, grower, collector, trader, carver, watcher, teacher, tamer,
        finder, cleaner, builder, counter, driver, inspector, expert
    """),
    traits=_split("""
        absent-minded, active, angry, anxious, brave, bright, calm, careful, cautious, charming, cheerful, clever,
        clumsy, cold, cunning, curious, eager, early, easy-going, elegant, energetic, fair, famous, fearless, friendly,
        funny, gentle, gloomy, grumpy, happy, helpful, honest, humble, idle, impatient, jolly, kind, lazy, lively,
        lonely, loud, loyal, merry, modest, nervous, nice, noisy, odd, old, optimistic, patient, polite, proud, quick,
        quiet, restless, rude, sad, secretive, serious, shy, silent, sleepy, slow, smart, stern, strict, stubborn,
        talkative, tall, tired, unlucky, warm, wild, wise, witty, young
    """),
    looks=_split("""
        ancient, big, bitter, black, blue, broken, brown, bright, cold, cosy, crooked, dark, deep, dry, dusty, early,
        empty, enormous, far, fine, flat, foreign, forgotten, fresh, golden, good, great, green, grey, heavy, hidden,
        high, hot, huge, icy, large, light, little, long, lost, low, misty, narrow, new, northern, old, orange, pale,
        pink, plain, purple, quiet, rare, red, round, rusty, salty, sharp, short, silver, simple, small, smooth, soft,
        sour, southern, square, steep, stormy, strange, sweet, tall, thick, thin, tiny, ugly, upper, warm, wet, white,
        wide, wild, windy, wooden, yellow
    """),
    things=_split("""
        apples, arrows, baskets, beans, bears, beetles, bells, berries, bicycles, birds, boats, books, boots, bottles,
        boxes, bridges, brushes, buttons, cakes, candles, carpets, castles, cats, caves, chairs, cheese, cherries,
        clocks, clouds, coats, coins, cows, crabs, crowns, cups, dogs, dolls, doors, dragons, drums, ducks, eagles,
        eggs, engines, feathers, fish, flags, flowers, flutes, forests, frogs, games, gardens, geese, ghosts, gloves,
        goats, grapes, guitars, hats, herbs, hills, honey, horses, insects, islands, jam, jewels, jokes, keys, kites,
        knives, ladders, lamps, leaves, lemons, letters, lions, machines, maps, masks, mice, milk, mirrors, mountains,
        mushrooms, music, needles, nuts, oranges, owls, paintings, pancakes, paper, parrots, pears, pens, pianos,
        pictures, pigs, pipes, plants, plays, poems, potatoes, puzzles, rabbits, rain, riddles, rings, rivers, rockets,
        roses, sausages, seeds, shells, ships, shoes, shops, snakes, snow, soap, songs, soup, spiders, spoons, stamps,
        stars, stones, stories, storms, swords, tea, tents, tomatoes, towers, toys, trains, trees, trumpets, violins,
        whales, windows, wolves, wool
    """),
    stuff=_split("""
        acorn, amber, anchor, apple, arrow, barley, basket, bell, berry, boat, bone, book, bottle, bread, brick,
        bridge, brush, bubble, button, candle, carpet, carrot, castle, chain, cheese, clock, cloud, coal, coin, copper,
        coral, corn, cotton, crystal, dog, doll, dragon, drum, duck, eagle, egg, elephant, engine, falcon, fern, fish,
        flute, flower, fog, fox, frog, garden, ghost, glass, goat, gold, goose, grape, hat, hazel, herb, honey, horse,
        ice, ink, iron, island, ivory, jam, jewel, kettle, key, kite, lace, ladder, lamp, leaf, lemon, letter, lion,
        map, maple, marble, milk, mirror, mist, moon, moss, mushroom, needle, nut, oak, oat, olive, onion, owl, paper,
        pear, pearl, pepper, pigeon, pine, pipe, potato, puppet, rabbit, raven, ribbon, river, robot, rope, rose, salt,
        sand, shadow, sheep, shell, ship, silk, silver, sky, snail, snow, soap, spider, spoon, star, stone, storm,
        sugar, sun, swan, sword, tea, thorn, thunder, tiger, timber, toy, train, tree, turtle, violin, water, wax,
        whale, wheat, willow, wind, wine, wolf, wood, wool
    """),
    sites=_split("""
        bay, beach, bridge, canal, castle, cave, cliff, coast, creek, desert, farm, field, forest, garden, harbour,
        hill, house, island, lake, library, marsh, meadow, mill, moor, mountain, palace, park, port, river, road,
        school, sea, shop, shore, square, station, street, swamp, temple, tower, tunnel, valley, village, wall, well,
        wood, cottage, ship, inn, office
    """),
    doings=_split("""
        acting, baking, building, camping, carving, catching, climbing, collecting, cooking, counting, cycling,
        dancing, digging, drawing, dreaming, drinking, eating, exploring, fishing, fixing, flying, gardening, growing,
        hiking, hunting, inventing, juggling, jumping, knitting, laughing, learning, listening, making, mending,
        painting, planting, playing, racing, reading, repairing, resting, riding, rowing, running, sailing, sewing,
        singing, skating, sleeping, studying, swimming, talking, teaching, thinking, travelling, waiting, walking,
        washing, watching, whistling, working, writing
    """),
)

HELD_OUT = Words(
    names=_split("""
        Abigail, Adrian, Agnes, Aisha, Alfred, Amelie, Balthasar, Barnaby, Beatrix, Benedict, Bogdan, Brigitte,
        Caspar, Catalina, Cedric, Charlotte, Clement, Cordelia, Cyrus, Delphine, Desmond, Dimitri, Dorothy, Ebenezer,
        Eleanor, Ellsworth, Ephraim, Esmeralda, Farouk, Fatima, Ferdinand, Florence, Gabriel, Genevieve, Gideon,
        Giovanni, Gloria, Gwendolyn, Hannibal, Hector, Hermione, Hiroshi, Horatio, Ignatius, Imogen, Ingrid, Isolde,
        Jasper, Jemima, Joaquin, Josephine, Kamala, Katarzyna, Konstantin, Krishna, Lancelot, Leopold, Lysander,
        Magnus, Marguerite, Matilda, Maximilian, Mohammed, Montgomery, Muriel, Nathaniel, Nikolai, Octavia, Ophelia,
        Orlando, Oswald, Parvati, Penelope, Percival, Philippa, Priscilla, Quentin, Rafael, Rapunzel, Rebecca,
        Reginald, Rosalind, Rupert, Sebastian, Seraphina, Siegfried, Solomon, Svetlana, Tabitha, Thaddeus, Theodora,
        Tobias, Ulrich, Valentina, Vladimir, Wilhelmina, Winston, Xavier, Yolanda, Zachary, Zuleika
    """),
    towns=_split("""
        Aberdeen, Bogota, Bruges, Cardiff, Dresden, Exeter, Florence, Ghent, Helsinki, Istanbul, Jakarta, Krakow,
        Ljubljana, Marseille, Nuremberg, Oxford, Plymouth, Rotterdam, Salzburg, Tromso, Uppsala, Verona, Windsor
    """),
    jobs=_split("""
        acrobat, alchemist, archivist, auctioneer, banker, bellringer, cashier, chimney sweep, coachman, conductor,
        diplomat, dressmaker, embroiderer, falconer, gravedigger, harpist, horologist, innkeeper, janitor, lawyer,
        lumberjack, milliner, navigator, organist, postman, puppeteer, quilter, saddler, stonecutter, upholsterer,
        veterinarian, watchmaker
    """),
    agents=_split("polisher, catcher, dealer, designer, smuggler, whisperer"),
    traits=_split("""
        adventurous, ambitious, bashful, boisterous, courageous, daring, diligent, dreamy, earnest, forgetful,
        generous, graceful, imaginative, inquisitive, melancholy, mischievous, observant, playful, reckless, sensible,
        thoughtful, unhappy, vain
    """),
    looks=_split("""
        abandoned, azure, crimson, delicate, elaborate, faded, gigantic, hollow, marshy, mossy, peculiar, polished,
        rocky, scarlet, shiny, slender, sunny, violet, western
    """),
    things=_split("""
        accordions, almonds, balloons, blankets, butterflies, cabbages, cameras, cinnamon, compasses, cucumbers,
        daisies, donkeys, fountains, harps, hedgehogs, lanterns, marigolds, marmalade, melons, necklaces, octopuses,
        peaches, penguins, pumpkins, squirrels, sunflowers, telescopes, tulips, umbrellas, walnuts, waterfalls, zebras
    """),
    stuff=_split("""
        almond, bamboo, barrel, beaver, bronze, camel, cedar, cherry, clover, diamond, emerald, feather, ginger,
        hammer, heron, lantern, lavender, lobster, mustard, parchment, pumpkin, rocket, saffron, seagull, tobacco,
        velvet, walnut
    """),
    sites=_split("""
        abbey, barn, cathedral, fjord, glacier, lagoon, market, monastery, orchard, quarry, ravine, vineyard
    """),
    doings=_split("""
        archery, bowling, celebrating, debating, embroidering, gossiping, hopping, improvising, kayaking, polishing,
        quarrelling, sculpting, skiing, stargazing, surfing, wandering, weaving, wrestling, yodelling
    """),
)
#: Every word that training must never see, in lower case.
SECRET = frozenset(
    word.lower()
    for field in ("names", "towns", "jobs", "agents", "traits", "looks", "things", "stuff", "sites", "doings")
    for phrase in getattr(HELD_OUT, field) for word in phrase.split()
)
